"""The metrics of evaluation.json: what they are called, how they are written, which way is good."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto


class Scale(Enum):
    """On what a figure can move up and down alike. `LOG`: an error, which cannot fall below 0;
    `REST`: 1 less an error; `DECIBEL`: ten times the logarithm of one; `EXPONENTIAL`: that of what
    itself is linear.
    """

    LINEAR = auto()
    LOG = auto()
    REST = auto()
    DECIBEL = auto()
    EXPONENTIAL = auto()


@dataclass(frozen=True, slots=True)
class Metric:
    """`form` writes a value, `signed` a difference. `axis`: the label with its unit, where it has
    one. `from_float`: whether it says how far a variant is from the float model. `most`: the
    highest it can be. `enough`: samples from which on its 95 % interval holds what it should
    (docs/benchmarks/coverage.md).
    """

    label: str
    form: str
    axis: str = ""
    scale: Scale = Scale.LINEAR
    from_float: bool = False
    most: float | None = None
    enough: int = 40

    @property
    def signed(self) -> str:
        """Return the format of a difference."""
        return self.form.replace("{:", "{:+")

    @property
    def is_share(self) -> bool:
        """Return whether it counts what is right."""
        return self.form.endswith("%}")


METRICS = {
    "loss": Metric("loss", "{:.4f}", "loss (nats per token)"),
    "perplexity": Metric("perplexity", "{:.3f}", scale=Scale.EXPONENTIAL),
    "kl": Metric(
        "KL", "{:.2e}", "KL from float (nats per token)", Scale.LOG, from_float=True, enough=100
    ),
    "top1_agreement": Metric("top-1 as float", "{:.1%}", from_float=True),
    "vqa_accuracy": Metric("questions", "{:.1%}", "questions answered"),
    "top1": Metric("top-1", "{:.1%}", "top-1 accuracy"),
    "top5": Metric("top-5", "{:.1%}", "top-5 accuracy"),
    "map50": Metric("mAP50", "{:.3f}", "mAP at IoU 0.5", most=1.0, enough=60),
    "map": Metric("mAP", "{:.3f}", "mAP at IoU 0.5 to 0.95", most=1.0, enough=60),
    "mse": Metric("MSE", "{:.2e}", scale=Scale.LOG, from_float=True, enough=60),
    "sqnr_db": Metric("SQNR dB", "{:.1f}", scale=Scale.DECIBEL, from_float=True, enough=60),
    "cosine": Metric("cosine", "{:.5f}", scale=Scale.REST, from_float=True, enough=60),
}
_SAYS_MOST = ("loss", "map50", "top1", "mse")
_FIDELITY = {"perplexity", "mse", "sqnr_db", "cosine"}
"""What a better metric says already, where there is one."""


def metric(key: str) -> Metric:
    """Return what is known of a metric; a key of another version is shown as it is."""
    return METRICS.get(key, Metric(key, "{:.4g}"))


def in_order(keys: Collection[str], *, narrow: bool = False) -> list[str]:
    """Return the metrics in the order of columns; `narrow` leaves out what another says already."""
    known = [key for key in METRICS if key in keys]
    shown = [*known, *sorted(set(keys) - set(known))]
    if narrow and quality_key(keys) != "mse":
        shown = [key for key in shown if key not in _FIDELITY]
    return shown


def quality_key(keys: Collection[str]) -> str:
    """Return the metric that says most about the task."""
    return next(key for key in (*_SAYS_MOST, *sorted(keys)) if key in keys)

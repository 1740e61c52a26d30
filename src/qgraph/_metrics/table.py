"""The metrics: each is one entry of one table, for sensitivity and evaluation alike.

A metric that follows from sums (`of`) is scored at every node; with `damage`, nodes can be ranked
and profiles cut by it. The others are measured by tasks alone. To add one, add an entry here and
its line to docs/files.md; what needs a sum that is not there yet adds it to `distance.Sums`. A
person calls one by its key, its label, or the start of one that is alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from qgraph._graph.errors import UsageError, nearest
from qgraph._metrics.distance import Sums

Figures = Mapping[str, float | None]
"""Key of a metric → its value; None where there is none: an SQNR without error, a KL without
logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`form` writes a value, `signed` a difference. `axis`: the label with its unit, where it has
    one. `from_float`: whether it says how far a variant is from the float model. `by_parts`:
    whether it is made of the sums of others, which are kept sample by sample instead. `is_share`:
    whether it counts what is right. `least`, `most`: between which all its values are.
    `needs_logits`: whether it is one of logits alone. `enough`: samples from which on the 95 %
    interval of a difference holds what it should
    (docs/benchmarks/coverage.md). `accept`: what a variant has to keep to be recommended, where
    nobody says otherwise: `<=1.01x` is a multiple of the float model's. `unbounded`: whether
    there is none where outputs are equal, as it would be infinite.

    `of`: from sums to its value. `of_damage`: from its value to an amount that is 0 for equal
    outputs, grows with the error and adds up over nodes: what rankings and cuts go by.
    `damage_label`: what that amount is called, where it is not the metric itself.
    """

    key: str
    label: str
    form: str
    axis: str = ""
    from_float: bool = False
    by_parts: bool = False
    is_share: bool = False
    least: float = 0.0
    most: float = math.inf
    needs_logits: bool = False
    enough: int = 40
    accept: str = ""
    unbounded: bool = False
    of: Callable[[Sums], float | None] | None = None
    of_damage: Callable[[float], float] | None = None
    damage_label: str = ""

    @property
    def damage_name(self) -> str:
        """Return what an amount of damage is called, in a heading."""
        return self.damage_label or self.label

    @property
    def damage_axis(self) -> str:
        """Return what an amount of damage is called, with its unit."""
        return self.damage_label or self.axis or self.label

    @property
    def signed(self) -> str:
        """Return the format of a difference."""
        return self.form.replace("{:", "{:+")

    @property
    def has_multiple(self) -> bool:
        """Return whether the float model has a value of it that is neither 0 nor infinite."""
        return not self.from_float or self.of_damage is _rest

    def outcome(self, limit: float, *, above: bool, relative: bool, moves: bool) -> bool | None:
        """Return whether every figure is above (or below) `limit`, False where none is, None where
        it depends. `relative`: of a figure ÷ another; `moves`: of a difference, then ÷ another.
        """
        low, high = self.least, self.most
        if relative:
            low, high = (0.0 if low >= 0 else -math.inf) - moves, math.inf
        elif moves:
            low, high = low - high, high - low
        if not above:
            low, high, limit = -high, -low, -limit
        # from one end to the other moves next to nothing; a value is often at its end
        return True if limit < low or (moves and limit == low) else False if limit >= high else None

    @property
    def span_in_words(self) -> str:
        """Return between which all figures are."""
        span = f"from {self.least:g} to {self.most:g}"
        span = f"{self.least:g} or more" if math.isinf(self.most) else span
        return f"{self.key} is {span}{', so it falls by less than 100%' * (self.least >= 0)}."

    def damage(self, found: Figures) -> float:
        """Return how much damage figures show: 0 for equal outputs, infinity where there is an
        error and the metric has no value for it, as where there is no signal.

        Raises:
            KeyError: it is no metric that nodes are ranked by.
        """
        if self.of_damage is None:
            raise KeyError(self.key)
        value = found.get(self.key)
        if value is None:
            return 0.0 if found.get("mse") == 0 else math.inf
        return self.of_damage(value)


def _sqnr_db(sums: Sums) -> float | None:
    return 10 * math.log10(sums.signal / sums.error) if sums.error and sums.signal else None


def _cosine(sums: Sums) -> float:
    norm = math.sqrt(sums.signal * sums.got)
    return min(1.0, sums.dot / norm) if norm else float(sums.error == 0)


def _rest(value: float) -> float:
    return 1.0 - value


def _power(decibels: float) -> float:
    """Return the noise-to-signal power ratio of an SQNR."""
    return float(10.0 ** min(-decibels / 10, 308.0))


_TABLE = (
    Metric(key="loss", label="loss", form="{:.4f}", axis="loss (nats per token)", accept="<=1.01x"),
    Metric(key="perplexity", label="perplexity", form="{:.3f}", by_parts=True, least=1.0),
    Metric(
        key="kl", label="KL", form="{:.2e}", axis="KL from float (nats per token)",
        from_float=True, needs_logits=True, enough=100,
        of=lambda sums: max(0.0, sums.kl / sums.positions) if sums.positions else None,
        of_damage=float,
    ),
    Metric(
        key="top1_agreement", label="top-1 as float", form="{:.1%}", from_float=True,
        is_share=True, most=1.0, needs_logits=True, accept=">=0.95", of_damage=_rest,
        of=lambda sums: sums.agree / sums.positions if sums.positions else None,
        damage_label="1 − top-1 as float",
    ),
    Metric(
        key="vqa_accuracy", label="questions", form="{:.1%}", axis="questions answered",
        is_share=True, most=1.0, accept=">=0.99x",
    ),
    Metric(
        key="top1", label="top-1", form="{:.1%}", axis="top-1 accuracy",
        is_share=True, most=1.0, accept=">=0.99x",
    ),
    Metric(
        key="top5", label="top-5", form="{:.1%}", axis="top-5 accuracy", is_share=True, most=1.0,
    ),
    Metric(
        key="map50", label="mAP50", form="{:.3f}", axis="mAP at IoU 0.5", most=1.0, enough=60,
        accept=">=0.99x",
    ),
    Metric(
        key="map", label="mAP", form="{:.3f}", axis="mAP at IoU 0.5 to 0.95", most=1.0, enough=60,
        accept=">=0.98x",
    ),
    Metric(
        key="mse", label="MSE", form="{:.2e}", from_float=True, enough=60,
        of=lambda sums: sums.error / max(sums.count, 1), of_damage=float,
    ),
    Metric(
        key="sqnr_db", label="SQNR dB", form="{:.1f}", by_parts=True, from_float=True,
        least=-math.inf, enough=60, accept=">=30", unbounded=True, of=_sqnr_db, of_damage=_power,
        damage_label="noise/signal power",
    ),
    Metric(
        key="worst_sqnr_db", label="worst output dB", form="{:.1f}",
        axis="SQNR of the worst output, dB", by_parts=True, from_float=True, least=-math.inf,
        enough=60, accept=">=30", unbounded=True,
    ),
    Metric(
        key="cosine", label="cosine", form="{:.5f}", by_parts=True, from_float=True, least=-1.0,
        most=1.0, enough=60, of=_cosine, of_damage=_rest, damage_label="1 − cosine",
    ),
    Metric(
        key="noise_to_signal", label="noise/signal", form="{:.3e}", from_float=True,
        enough=60, of=lambda sums: sums.relative / sums.parts if sums.parts else None,
        of_damage=float,
    ),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {item.key: item for item in _TABLE}
"""Key → metric, in the order of columns."""
SCORED = ("mse", *(item.key for item in _TABLE if item.of is not None and item.key != "mse"))
"""The metrics that every node is scored by, the one that is always there first."""
_SAYS_MOST = ("loss", "map50", "top1", "mse")
_FIDELITY = {"perplexity", "mse", "sqnr_db", "cosine"}
"""What a better metric says already, where there is one."""
_CALLED_ELSEWHERE = {"accuracy": "top1", "acc": "top1", "ppl": "perplexity", "map50_95": "map"}
"""What other tools call a metric → its key."""
_OF_LABELS = {"top1", "top5", "map50", "map", "vqa_accuracy"}


def figures(sums: Sums) -> dict[str, float | None]:
    """Return every scored metric over what was summed."""
    return {key: made(sums) for key in SCORED if (made := METRICS[key].of) is not None}


def metric(key: str) -> Metric:
    """Return what is known of a metric; a key of another version is shown as it is."""
    return METRICS.get(key) or Metric(key=key, label=key, form="{:.4g}", least=-math.inf)


def in_order(keys: Collection[str], *, narrow: bool = False) -> list[str]:
    """Return the metrics in the order of columns; `narrow` leaves out what another says already."""
    known = [key for key in METRICS if key in keys]
    shown = [*known, *sorted(set(keys) - set(known))]
    if narrow and keys and quality_key(keys) != "mse":
        shown = [key for key in shown if key not in _FIDELITY]
    return shown


def quality_key(keys: Collection[str]) -> str:
    """Return the metric that says most about the task."""
    return next(key for key in (*_SAYS_MOST, *sorted(keys)) if key in keys)


def find_metric(text: str, keys: Collection[str], option: str) -> str:
    """Return the one of `keys` that `text` names: `top1_agreement`, `top-1 as float` or, where no
    other begins so, `top1`. `option` is who asks.

    Raises:
        UsageError: none or several; the message names what there is, by key and label.
    """
    for alike in (is_called, lambda text, key: key.startswith(_plain(text))):
        found = [key for key in keys if alike(text, key)]
        if len(found) == 1:
            return found[0]
    named = [key if _plain(metric(key).label) == key else f"{key} ({metric(key).label})"
             for key in in_order(keys)]  # fmt: skip
    raise UsageError(
        f"{option}: no metric {text!r} here; there are {', '.join(named)}",
        hint=_meant(_plain(text), keys),
    )


def _meant(name: str, keys: Collection[str]) -> str:
    """Return what may help who asked for a metric that is not there."""
    key = _CALLED_ELSEWHERE.get(name, name)
    if key in keys:
        return f"Did you mean {key}?"
    if key in _OF_LABELS:
        return f"{key} is measured where the data holds the right answers (labels)."
    return nearest(name, keys)


def is_called(text: str, key: str) -> bool:
    """Return whether `text` is a metric's key or its label."""
    return _plain(text) in (key, _plain(metric(key).label))


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace(" ", "_").replace("/", "_to_")

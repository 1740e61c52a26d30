"""From distances to ranks."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._graph.errors import UsageError
from qgraph._sensitivity.report import Metric, Score


def require_measurable(metric: Metric, *, logits: bool) -> None:
    """Check, before any work, that the metric exists at the scored outputs.

    Raises:
        UsageError: it is one of logits, and these are none.
    """
    if metric in (Metric.KL, Metric.TOP1_AGREEMENT) and not logits:
        raise UsageError(
            f"--metric {metric} is measured on logits only",
            hint="Use mse, sqnr_db or cosine for this model, or leave --no-logits away.",
        )


def badness(solo: Score | None, leave_one_out: Score | None, metric: Metric) -> float:
    """Return how much quantizing a node hurts; larger is worse.

    Solo error decides where it was measured; else the error that leaving the node out removes,
    which is the all-quantized error less what remains.
    """
    if solo is not None:
        return _signed(solo, metric, worse=1)
    assert leave_one_out is not None  # noqa: S101 - one direction is always measured
    if metric is Metric.MSE and leave_one_out.gain is not None:
        return leave_one_out.gain
    # Left out, a sensitive node leaves little error behind.
    return _signed(leave_one_out, metric, worse=-1)


def ranks(values: Sequence[float]) -> list[int]:
    """Return 1 for the largest value and so on; equal values keep their order."""
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    result = [0] * len(values)
    for rank, index in enumerate(order, start=1):
        result[index] = rank
    return result


def _signed(score: Score, metric: Metric, *, worse: int) -> float:
    value = getattr(score, metric.value)
    if value is None and metric in (Metric.SQNR_DB, Metric.NOISE_TO_SIGNAL):
        # None has two causes: no error at all, or an error where there is no signal
        worst = float("inf") if metric.higher_is_worse else float("-inf")
        value = -worst if score.mse == 0 else worst
    assert value is not None  # noqa: S101 - require_measurable refused it
    return float(value) * (worse if metric.higher_is_worse else -worse)

"""From scores to ranks, by whichever metric was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qgraph._graph.errors import UsageError
from qgraph._metrics import metric
from qgraph._sensitivity.report import Score


def require_measurable(key: str, *, logits: bool) -> None:
    """Check, before any work, that the metric exists at the scored outputs.

    Raises:
        UsageError: it is one of logits, and these are none.
    """
    if metric(key).needs_logits and not logits:
        raise UsageError(
            f"--metric {key} is measured on logits only",
            hint="Use mse, sqnr_db or cosine for this model, or leave --no-logits out.",
        )


def harm(
    solo: Score | None, leave_one_out: Score | None, everything: Score | None, key: str
) -> float:
    """Return how much quantizing a unit hurts, by the metric `key`; larger is worse.

    Solo damage decides where it was measured; else the damage that leaving the unit out removes:
    that of quantizing everything less what remains.
    """
    known = metric(key)
    if solo is not None:
        return known.damage(solo.figures)
    if leave_one_out is None:
        raise AssertionError("one direction is always measured")
    whole = known.damage(everything.figures) if everything is not None else 0.0
    # left out, a sensitive node leaves little error behind
    return (whole if math.isfinite(whole) else 0.0) - known.damage(leave_one_out.figures)


def ranks(values: Sequence[float]) -> list[int]:
    """Return 1 for the largest value and so on; equal values keep their order."""
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    result = [0] * len(values)
    for rank, index in enumerate(order, start=1):
        result[index] = rank
    return result

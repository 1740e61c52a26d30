"""Which variant to deploy: the one that does most in 8 bits within limits on several metrics.

One metric oversells: a language model whose loss is as before may still say every tenth token
otherwise. So each metric of a task has a limit of its own, which a person may replace.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from qgraph._evaluation.results import Evaluation, Recommendation, Variant
from qgraph._graph.errors import UsageError
from qgraph._metrics import metric, quality_key
from qgraph._metrics.budget import Budget
from qgraph._metrics.table import find_metric


def parse_limits(accept: Sequence[str]) -> tuple[Budget, ...]:
    """Return the limits written as `loss<=1.01x` or `loss<=1.01x,top1>=0.95`.

    Raises:
        UsageError: one of them is no limit.
    """
    parts = (part for text in accept for part in text.split(",") if part.strip())
    return tuple(map(Budget.parse, parts))


def recommend(evaluation: Evaluation, accept: Sequence[str] = ()) -> Recommendation | None:
    """Return the variant to deploy, or None where nothing is quantized or nothing limits it.

    `accept` replaces the default limit of each metric that it names. A variant that lacks a
    metric, or has NaN, is beyond that metric's limit, unless its outputs equal the float model's.
    Of two that quantize the same share of MACs, the smaller file is taken.

    Raises:
        UsageError: `accept` names a metric that was not measured, or is no limit.
    """
    own = parse_limits(accept)
    limits = _limits(evaluation, own)
    reference, *quantized = evaluation.variants
    if not limits or not quantized:
        return None
    beyond = {item.name: _beyond(item, reference.metrics, limits) for item in quantized}
    within = [item for item in quantized if not beyond[item.name]]
    best = max(within, key=lambda item: (item.macs_share, -item.size_bytes), default=None)
    return Recommendation(
        variant=None if best is None else best.name,
        limits=tuple(map(str, limits)),
        own=bool(own),
        beyond={name: found for name, found in beyond.items() if found},
    )


def _limits(evaluation: Evaluation, own: Sequence[Budget]) -> list[Budget]:
    # a float model has no SQNR of its own
    keys = dict.fromkeys(key for item in evaluation.variants for key in item.metrics)
    if "mse" in keys:  # nor has a variant whose outputs equal the float model's
        keys["sqnr_db"] = None
    found = {key: Budget.parse(f"{key}{rule}") for key in keys if (rule := _default(key, keys))}
    for budget in own:
        key = find_metric(budget.metric, keys, "--accept")
        budget.require_useful(key, "--accept")
        if budget.relative and not evaluation.variants[0].metrics.get(key):
            raise UsageError(
                f"--accept {budget}: the float model has no {key} to take a multiple of",
                hint="Give the figure itself, as in sqnr_db>=30.",
            )
        found[key] = replace(budget, metric=key)
    return list(found.values())


def _default(key: str, measured: Collection[str]) -> str:
    """Return a metric's own limit; that of all outputs' SQNR only where nothing says more."""
    if key == "sqnr_db" and (quality_key(measured) != "mse" or "worst_sqnr_db" in measured):
        return ""
    return metric(key).accept


def _beyond(
    item: Variant, reference: Mapping[str, float], limits: Sequence[Budget]
) -> tuple[str, ...]:
    return tuple(
        str(limit)
        for limit in limits
        if not limit.is_met(
            value_of(item.metrics, limit.metric), reference.get(limit.metric, math.nan)
        )
    )


def value_of(metrics: Mapping[str, float], key: str) -> float:
    """Return a metric's value: infinite where outputs are equal, NaN where it is missing, as is the
    SQNR of an error where the float model's outputs are 0.
    """
    known = metric(key)
    equal = known.unbounded and "mse" in metrics and (known.of is None or metrics["mse"] == 0)
    return metrics.get(key, math.inf if equal else math.nan)


def require_limits(accept: Sequence[str]) -> None:
    """Check, before anything is measured, that each of `accept` is a limit.

    Raises:
        UsageError: one is not.
    """
    try:
        parse_limits(accept)
    except UsageError as error:
        raise UsageError(f"--accept: {error.message}", hint=error.hint) from error

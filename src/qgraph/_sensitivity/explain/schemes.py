"""Schemes side by side, where nodes were scored under several: what reports show of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qgraph._metrics import metric
from qgraph._sensitivity.report import NodeScore, Score, Sensitivity


def scheme_names(report: Sensitivity) -> list[str]:
    """Return the schemes that nodes were scored under, the file's own first; none of only one."""
    others = [item.name for item in report.schemes or ()]
    return [str(report.scheme.name), *others] if others else []


def damages(node: NodeScore, report: Sensitivity) -> list[float | None]:
    """Return what a node alone does under each of `scheme_names`, by the report's metric."""
    return [_damage(score, report) for score in _scores(node, report)]


def two_schemes(report: Sensitivity) -> tuple[int, int] | None:
    """Return the places of two among `scheme_names` to hold against each other: the file's own, and
    the one that nodes may be in beside it, or the first that quantizes activations.
    """
    others = report.schemes or ()
    whole = [at for at, item in enumerate(others, 1) if item.scheme is not None]
    if report.mixed is not None:
        whole = [at for at in whole if others[at - 1].name == report.mixed.schemes[1]]
    return (0, whole[0]) if whole else None


def summary(report: Sensitivity) -> list[str]:
    """Return a line for each scheme: what everything under it does, and, of those that quantize
    activations, where it is the best.
    """
    names = scheme_names(report)
    totals = [report.baseline.all_quantized if report.baseline is not None else None]
    totals += [item.all_quantized for item in report.schemes or ()]
    whole = [0, *(at for at, item in enumerate(report.schemes or (), 1) if item.scheme)]
    best = [_least(damages(node, report), whole) for node in report.nodes]
    unit, count = metric(report.metric).damage_name, len(best)
    estimate = report.run.estimate
    known = estimate is not None and estimate.baseline_measured
    how = [" (measured)" * known, *([" (estimated)"] * (len(totals) - 1))]
    lines = [
        f"{name}: {unit} {_shown(_damage(total, report))} with everything quantized{note}"
        for name, total, note in zip(names, totals, how, strict=False)
    ]
    for at in whole if len(whole) > 1 else ():
        lines[at] += f", the best of {len(whole)} at {best.count(at)} of {count} nodes"
    return lines


def _scores(node: NodeScore, report: Sensitivity) -> list[Score | None]:
    others = node.schemes or {}
    return [node.solo, *(others.get(item.name) for item in report.schemes or ())]


def _damage(score: Score | None, report: Sensitivity) -> float | None:
    found = None if score is None else metric(report.metric).damage(score.figures)
    return found if found is not None and math.isfinite(found) else None


def _least(row: Sequence[float | None], among: Sequence[int]) -> int | None:
    known = [(value, at) for at in among if (value := row[at]) is not None]
    return min(known)[1] if known else None


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3e}"

"""Which tensors are rotated, chosen by the error they make at the model's outputs.

A rotation (QuaRot, Ashkboos et al., 2024) multiplies blocks of channels by a Hadamard matrix, which
spreads what is large in one channel over all of its block: the range of the whole tensor shrinks,
and the weight that reads it takes the inverse. Where nothing absorbs it, it is a small float
product before the quantization, so it must take away more than it costs.

Each half of the samples judges ranges and factors that were made from the other half. One backward
pass a form says what each tensor's readers do with it and without; those that make up most of what
can be won are rotated, and the whole is measured before it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._quantize.smooth.plan import SmoothingPlan
from qgraph._quantize.smooth.points import SmoothPoint
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.halves import (
    EVEN,
    SHARES,
    Choice,
    JudgedHalf,
    halves_of,
    plan_of,
    squared_error,
)
from qgraph._sensitivity.search.ratios import gains

STRENGTHS = (0.5, 0.7)
"""Of smoothing before a rotation, beside the one that was chosen without: channels that tokens with
massive activations are in must be smoothed first."""
_MOST = 128
_SHARE = 4
"""A block has at most this many channels, and costs at most one product in four of its readers'."""
_WORTH = 0.8
"""What a rotation must bring the error of its readers down to."""
_ENOUGH = 0.98
"""Of all that rotations can win: tensors that add little to it are left alone."""


@dataclass(frozen=True, slots=True)
class _How:
    """How a point is treated: strength and block, 0 and 1 for neither."""

    alpha: float
    block: int = 1


_Hows = Mapping[SmoothPoint, _How]


def search_rotation(search: Search, smoothing: Choice) -> Choice:
    """Return `smoothing` with rotations, and other strengths, where these pay."""
    plan = plan_of(search)
    strengths = {item.tensor: item.alpha for item in smoothing}
    base = {point: _How(strengths.get(point.tensor, 0.0)) for point in plan.points}
    widths = _widths(search)
    blocks = {point: point.block(_affordable(point, widths)) for point in plan.points}
    points = [point for point, block in blocks.items() if block > 1]
    if not points:
        return smoothing
    ways = _ways(base, blocks, points)
    halves = halves_of(search)
    errors = []
    for number, hows in enumerate((base, *ways)):
        search.progress("searching rotations", number, len(ways) + 3)
        errors.append(np.concatenate([_estimated(half, hows, points) for half in halves]))
    chosen = _chosen(errors, ways, points)
    if not chosen:
        return smoothing
    rotated = {**base, **chosen}
    search.progress("searching rotations", len(ways) + 1, len(ways) + 3)
    sets = _sets(errors[0], points)
    plain, other = (_measured(halves, hows, sets) for hows in (base, rotated))
    search.progress("searching rotations", len(ways) + 3, len(ways) + 3)
    holds = (other.sum(0) <= EVEN * plain.sum(0)).all() and gains(plain, other).mean() > 0
    return _at(plan, rotated) if holds else smoothing


def _widths(search: Search) -> Mapping[str, int]:
    """Return node → how many channels it makes."""
    return {
        node.name: node.weight.shape[node.weight.axis]
        for node in search.nodes(search.prepared)
        if node.weight is not None and node.weight.axis is not None
    }


def _affordable(point: SmoothPoint, widths: Mapping[str, int]) -> int:
    """Return the most channels a block may have; one that is absorbed costs nothing."""
    if point.turns:
        return point.channels
    return max(1, min(_MOST, sum(widths[name] for name in point.quantized) // _SHARE))


def _ways(
    base: _Hows, blocks: Mapping[SmoothPoint, int], points: Sequence[SmoothPoint]
) -> list[_Hows]:
    """Return every point rotated, at the strength it has and at others."""
    own = {point: _How(base[point].alpha, blocks[point]) for point in points}
    others = [{point: _How(alpha, blocks[point]) for point in points} for alpha in STRENGTHS]
    return [{**base, **way} for way in (own, *others)]


def _at(plan: SmoothingPlan, hows: _Hows) -> Choice:
    made = (plan.at(point, how.alpha, how.block) for point, how in hows.items())
    return tuple(item for item in made if item.alpha or item.rotation)


def _estimated(half: JudgedHalf, hows: _Hows, points: Sequence[SmoothPoint]) -> Array:
    """Return the error that each point's readers make, estimated, float64 [samples, points]."""
    trial, made = half.form(_at(half.plan, hows))
    questions: list[Question] = [frozenset(point.quantized) for point in points]
    return np.array(
        [[squared_error(item) for item in rows] for (rows,) in trial.estimates([made], questions)]
    )


def _measured(halves: Sequence[JudgedHalf], hows: _Hows, sets: Sequence[Question]) -> Array:
    """Return the errors of sets of nodes, measured, float64 [samples, sets]."""
    return np.concatenate([half.measured(_at(half.plan, hows), sets) for half in halves])


def _chosen(
    errors: Sequence[Array], ways: Sequence[_Hows], points: Sequence[SmoothPoint]
) -> dict[SmoothPoint, _How]:
    """Return how points are treated at which a way pays, those that win most first."""
    won = np.array([gains(errors[0], each).mean(0) for each in errors[1:]])
    best = won.argmax(0)
    taken = [
        errors[0][:, at].sum() - errors[1 + best[at]][:, at].sum() for at in range(len(points))
    ]
    paying = [at for at in range(len(points)) if won[best[at], at] > -math.log(_WORTH)]
    paying = sorted((at for at in paying if taken[at] > 0), key=lambda at: -taken[at])
    most = _ENOUGH * sum(taken[at] for at in paying)
    chosen: dict[SmoothPoint, _How] = {}
    reached = 0.0
    for at in paying:
        if reached < most or points[at].turns:
            chosen[points[at]] = ways[best[at]][points[at]]
            reached += taken[at]
    return chosen


def _sets(errors: Array, points: Sequence[SmoothPoint]) -> list[Question]:
    """Return all the points' nodes, and the shares of them that harm least."""
    order = np.argsort(errors.sum(0), kind="stable")
    names = [name for at in order for name in points[at].quantized]
    return [frozenset(names[: max(1, round(share * len(names)))]) for share in SHARES]

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
from dataclasses import dataclass, replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.smooth.plan import SmoothingPlan, smoothed
from qgraph._quantize.smooth.points import SmoothPoint
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search, Trial
from qgraph._sensitivity.search.ratios import gains

STRENGTHS = (0.5, 0.7)
"""Of smoothing before a rotation, beside the one that was chosen without: channels that tokens with
massive activations are in must be smoothed first."""
_MOST = 128
_SHARE = 4
"""A block has at most this many channels, and costs at most one product in four of its readers'."""
_SCORED = 16
_FEWEST = 4
"""Samples below which all make the model that is scored: halves of them would say nothing."""
_WORTH = 0.8
"""What a rotation must bring the error of its readers down to."""
_ENOUGH = 0.98
"""Of all that rotations can win: tensors that add little to it are left alone."""
_SHARES = (0.5, 0.75, 1.0)
"""Of the nodes, those that harm least first: what profiles quantize."""
_EVEN = 1.01

Choice = tuple[SmoothedTensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """`scored` samples, on models made from those of `search`, which `plan` has seen."""

    search: Search
    plan: SmoothingPlan
    scored: Sequence[Feed]


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
    folds = _folds(search)
    errors = []
    for number, hows in enumerate((base, *ways)):
        search.progress("searching rotations", number, len(ways) + 3)
        errors.append(np.concatenate([_estimated(fold, hows, points) for fold in folds]))
    chosen = _chosen(errors, ways, points)
    if not chosen:
        return smoothing
    rotated = {**base, **chosen}
    search.progress("searching rotations", len(ways) + 1, len(ways) + 3)
    sets = _sets(errors[0], points)
    plain, other = (_measured(folds, hows, sets) for hows in (base, rotated))
    search.progress("searching rotations", len(ways) + 3, len(ways) + 3)
    holds = (other.sum(0) <= _EVEN * plain.sum(0)).all() and gains(plain, other).mean() > 0
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


def _folds(search: Search) -> list[_Fold]:
    feeds = search.feeds[:_SCORED]
    if len(feeds) < _FEWEST:
        return [_Fold(search, plan_of(search), feeds)]
    half = len(feeds) // 2
    made = [replace(search, feeds=part) for part in (feeds[:half], feeds[half:])]
    return [
        _Fold(each, plan_of(each), other.feeds)
        for each, other in zip(made, reversed(made), strict=True)
    ]


def plan_of(search: Search) -> SmoothingPlan:
    """Return the points of a model, with what the samples show of them."""
    nodes, feeds = search.nodes(search.prepared), search.feeds
    return SmoothingPlan(
        search.prepared, nodes, feeds, search.provider, search.progress, search.memory
    )


def _at(plan: SmoothingPlan, hows: _Hows) -> Choice:
    made = (plan.at(point, how.alpha, how.block) for point, how in hows.items())
    return tuple(item for item in made if item.alpha or item.rotation)


def _estimated(fold: _Fold, hows: _Hows, points: Sequence[SmoothPoint]) -> Array:
    """Return the error that each point's readers make, estimated, float64 [samples, points]."""
    trial, made = _trial(fold, hows)
    questions: list[Question] = [frozenset(point.quantized) for point in points]
    return np.array(
        [[_error(item) for item in rows] for (rows,) in trial.estimates([made], questions)]
    )


def _measured(folds: Sequence[_Fold], hows: _Hows, sets: Sequence[Question]) -> Array:
    """Return the errors of sets of nodes, measured, float64 [samples, sets]."""
    rows = []
    for fold in folds:
        trial, made = _trial(fold, hows)
        rows += [[_error(item) for item in sums] for sums in trial.measures(made, sets)]
    return np.array(rows)


def _trial(fold: _Fold, hows: _Hows) -> tuple[Trial, FakeQuantization]:
    """Return a form of the model, and what all its nodes compute with."""
    search, choice = fold.search, _at(fold.plan, hows)
    model = smoothed(search.prepared, choice)
    nodes = search.nodes(model)
    ranges = calibrate(
        model, nodes, search.feeds, search.scheme, search.run, smoothing=choice,
        memory=search.memory,
    )  # fmt: skip
    parameters = quantization_parameters(model.model, nodes, ranges.by_name(), search.scheme)
    return Trial(search, model, nodes, fold.scored), fake_quantization(parameters)


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
    return [frozenset(names[: max(1, round(share * len(names)))]) for share in _SHARES]


def _error(item: Sums) -> float:
    """Return the squared error, of all outputs together; infinity where it is no number."""
    return np.inf if item.failed else item.error

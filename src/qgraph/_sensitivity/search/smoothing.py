"""The strength of smoothing, chosen for each tensor by the error it makes at the model's outputs.

One backward pass gives the gradient at every node's output; what a strength does to a node is one
more product with it (`quantization_in_place`), and the float model, so the gradient, is the same
for all strengths. Points do not disturb each other, as smoothing changes no float value.

A strong smoothing fits channels to the samples it was made from, and a new sample is clipped where
it exceeds them. So each half of the samples judges factors that were made from the other half, by
ratios of errors, sample by sample.

Estimates are of single points, and few samples mislead where each point chooses by itself. So some
whole choices, each point's own strengths and one for all, are measured: with all nodes quantized,
three quarters and half (those that harm least: the smaller profiles). The best is taken if nothing
is worse than without smoothing, else the next, else fewer tensors are smoothed, at last none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.index import GraphIndex
from qgraph._graph.progress import silent
from qgraph._graph.tensors import Array
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.plan import SmoothingPlan
from qgraph._quantize.smooth.points import SmoothPoint
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search, Spent, Trial
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

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_UNIFORM = (0.5, 0.7)
"""Strengths for all points that are measured whatever the estimates say, which favour weak ones
where ranges come from few samples."""
_WORTH, _WORTH_ON_MAPS = 0.9, 0.7
"""An explicit Mul costs time, and estimates are noisy, so smoothing must bring the error of its
readers down to this share; on the feature map of a convolution, which is large and read once, a Mul
costs more."""
_Strengths = Mapping[SmoothPoint, float]


def search_smoothing(search: Search) -> tuple[Choice, bool]:
    """Return the strength of each tensor; one that is better left alone is not named. With it,
    whether the deadline cut the search short.
    """
    plan = plan_of(replace(search, progress=silent))
    nodes = search.nodes(search.prepared)
    points = [point for point in plan.points if is_alone(point, nodes)]
    choice: _Strengths = {}
    cut_short = bool(points)
    with suppress(Spent):
        for choice in _choices(search, points) if points else ():  # noqa: B007 - the last is taken
            pass
        cut_short = False
    return _at(plan, choice), cut_short


def _choices(search: Search, points: Sequence[SmoothPoint]) -> Iterator[_Strengths]:
    """Yield choices of strengths, each better than the one before; none where none is better than
    no smoothing.

    Raises:
        Spent: the deadline has passed.
    """
    search.require_time()
    halves = halves_of(search)
    last = len(halves) + len(SHARES) + 1
    found = []
    for number, half in enumerate(halves):
        search.progress("searching smoothing", number, last)
        found.append(_estimated(half, points))
    harms = np.concatenate([plain for plain, _ in found])
    errors = _evened(np.concatenate([errors for _, errors in found], axis=1))
    of_half = np.repeat(np.arange(len(halves)), [len(plain) for plain, _ in found])
    names = _names(points)
    by_harm = [names[index] for index in np.argsort(harms.sum(0), kind="stable")]
    yield from _confirmed(halves, _whole_choices(points, errors), by_harm, of_half)
    search.progress("searching smoothing", last, last)


def is_alone(point: SmoothPoint, nodes: Sequence[QuantizableNode]) -> bool:
    """Return whether what the point's nodes read can be rescaled in place: no other candidate reads
    the tensor or a weight of theirs.
    """
    inside = [node for node in nodes if node.name in point.quantized]
    weights = {node.weight.tensor for node in inside if node.weight is not None}
    others = [node for node in nodes if node.name not in point.quantized]
    read = {name for node in others for _, name in node.activations}
    read |= {node.weight.tensor for node in others if node.weight is not None}
    return weights.isdisjoint(read) and point.tensor not in read


def _at(plan: SmoothingPlan, strengths: _Strengths) -> Choice:
    """Return each point at its strength; those at 0 are left alone."""
    return tuple(plan.at(point, alpha) for point, alpha in strengths.items() if alpha)


def _names(points: Sequence[SmoothPoint]) -> list[str]:
    return [name for point in points for name in point.quantized]


def _questions(points: Sequence[SmoothPoint]) -> list[Question]:
    """Return each node alone, then each point's nodes together."""
    single: list[Question] = [frozenset({name}) for name in _names(points)]
    return [*single, *(frozenset(point.quantized) for point in points)]


def _estimated(half: JudgedHalf, points: Sequence[SmoothPoint]) -> tuple[Array, Array]:
    """Return what is to be expected of a half's samples: the error of each node alone without
    smoothing, [samples, nodes], and of each point's nodes at every strength, plain first,
    [strengths, samples, points].
    """
    search = half.search
    names = _names(points)
    known = {node.name: node for node in search.nodes(search.prepared)}
    nodes = [known[name] for name in names]
    made = [_in_place(half, points, nodes, alpha) for alpha in (0.0, *GRID)]
    single = len(names)
    plain, rows = [], []
    trial = Trial(search, search.prepared, nodes, half.scored)
    for tables in trial.estimates(made, _questions(points)):
        plain.append([squared_error(item) for item in tables[0][:single]])
        rows.append([[squared_error(item) for item in table[single:]] for table in tables])
    return np.array(plain), np.array(rows).transpose(1, 0, 2)


def _in_place(
    half: JudgedHalf, points: Sequence[SmoothPoint], nodes: Sequence[QuantizableNode], alpha: float
) -> FakeQuantization:
    """Return what `nodes` compute with, every point at one strength; ranges are the extremes."""
    plan = half.plan
    ranges = {point.tensor: plan.range_at(point, alpha) for point in points}
    factors = {
        point: np.asarray(plan.at(point, alpha).factors, np.float32) for point in points if alpha
    }
    model, scheme = half.search.prepared.model, half.search.scheme
    return quantization_in_place(GraphIndex(model), nodes, ranges, scheme, factors)


def _evened(errors: Array) -> dict[float, Array]:
    """Return strength → errors, each the mean with those of the strengths beside it: what sets
    neighbours apart is how values happen to round, and which probe was drawn.
    """
    inner = np.concatenate([errors[1:2], errors[1:], errors[-1:]])
    even = (inner[:-2] + 2 * inner[1:-1] + inner[2:]) / 4
    return {0.0: errors[0], **dict(zip(GRID, even, strict=True))}


def _whole_choices(
    points: Sequence[SmoothPoint], errors: Mapping[float, Array]
) -> list[_Strengths]:
    """Return choices to be measured: the best strength of each point, and one for all. A point at
    which a strength does not pay is left alone.
    """
    won = {alpha: gains(errors[0.0], errors[alpha]).mean(0) for alpha in GRID}
    together = {alpha: gains(errors[0.0].sum(1), errors[alpha].sum(1)).mean() for alpha in GRID}
    best = max(GRID, key=lambda alpha: float(together[alpha]))
    wanted = [
        {number: max(GRID, key=lambda a: float(won[a][number])) for number in range(len(points))}
    ]
    wanted += [dict.fromkeys(range(len(points)), alpha) for alpha in {best, *_UNIFORM}]
    return [
        {
            points[number]: alpha
            for number, alpha in each.items()
            if won[alpha][number] > _needed(points[number])
        }
        for each in wanted
    ]


def _needed(point: SmoothPoint) -> float:
    """Return the gain from which on smoothing pays, as the logarithm of a ratio."""
    on_map = point.spatial and not point.absorbers
    return -math.log(_WORTH_ON_MAPS if on_map else _WORTH)


def _holds(errors: Array, plain: Array, of_half: Array) -> bool:
    """Return whether errors are no larger than plain ones on each half of the samples."""
    return all(
        errors[of_half == half].sum() <= plain[of_half == half].sum() for half in np.unique(of_half)
    )


def _confirmed(
    halves: Sequence[JudgedHalf],
    choices: Sequence[_Strengths],
    by_harm: Sequence[str],
    of_half: Array,
) -> Iterator[_Strengths]:
    """Yield the choice that so far measures best and no worse than no smoothing; if there is none,
    only the points of the best one whose nodes harm most, or nothing.
    """
    sets = [frozenset(by_harm[: max(1, round(share * len(by_harm)))]) for share in SHARES]
    tried = [each for number, each in enumerate(choices) if each and each not in choices[:number]]
    if not tried:
        return
    plain = _over(halves, {}, sets)

    def is_no_worse(errors: Array) -> bool:
        no_worse = (errors.sum(0) <= EVEN * plain.sum(0)).all()
        return bool(no_worse) and _holds(errors[:, -1], plain[:, -1], of_half)

    won, best, most, found = -math.inf, tried[0], -math.inf, False
    for each in tried:
        errors = _over(halves, each, sets)
        gain = float(gains(plain, errors).mean())
        if gain > most:
            best, most = each, gain
        if gain > won and is_no_worse(errors):
            won, found = gain, True
            yield each
    for quiet in () if found else sets[:-1]:
        kept = {p: alpha for p, alpha in best.items() if quiet.isdisjoint(p.quantized)}
        if kept and is_no_worse(_over(halves, kept, sets)):
            yield kept
            return


def _over(halves: Sequence[JudgedHalf], strengths: _Strengths, sets: Sequence[Question]) -> Array:
    """Return the errors of the samples of all halves, float64 [samples, sets]."""
    return np.concatenate([half.measured(_at(half.plan, strengths), sets) for half in halves])

"""The strength of smoothing, searched for each tensor on the sensitivity engine.

For every strength of a grid, the model is smoothed everywhere, and each tensor's readers are
quantized alone: their error at the model's outputs tells the best strength for that tensor. As
smoothing changes no float value, points do not disturb each other. The search starts from the
strength that is best for all tensors together, everything quantized: one question, well answered.
A tensor leaves it only for a gain beyond the noise of the samples. The mixture is taken only where
it beats that uniform strength and no smoothing at all.

A strong smoothing fits channels to the samples it was made from, and a new sample is clipped where
it exceeds them. So each half of the samples is scored on a model made from the other half.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import is_half
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun, SmoothedTensor
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.smooth.plan import SmoothingPlan, smoothed
from qgraph._quantize.smooth.points import SmoothPoint
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.scoring.questions import Question, Scored

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SCORED = 16
"""Samples that are looked at, at most. A sample of a decoder is many tokens, one of a classifier a
single answer: four of those tell strengths apart by chance."""
_FEWEST = 4
"""Samples below which all make the model that is scored: halves of them would say nothing."""
_SURE = 2.0
"""Standard errors: the best of six strengths for each of many tensors beats one by chance."""
_WORTH, _WORTH_ON_MAPS = 0.9, 0.7
"""An explicit Mul costs time, so it must bring the error of its readers down to this share; on the
feature map of a convolution, which is large and read once, it costs more."""

Nodes = Callable[[PreparedModel], Sequence[QuantizableNode]]
"""Returns the candidates of a model, which smoothing may make read other tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What is asked. `memory`: what the process may hold, None for what the machine can spare."""

    prepared: PreparedModel
    nodes: Nodes
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    run: RangesRun
    progress: Progress = silent
    memory: Memory | None = None

    @property
    def provider(self) -> Provider:
        """Return where to run."""
        return Provider(self.run.provider)


Choice = tuple[SmoothedTensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """`scored` samples, on models made from those of `search`, which `plan` has seen."""

    search: Search
    plan: SmoothingPlan
    scored: Sequence[Feed]


def search_smoothing(search: Search) -> Choice:
    """Return the strength of each tensor; one that is better left alone is not named."""
    folds, plan = _folds(search), _plan(search)
    questions = [frozenset(point.quantized) for point in plan.points]
    everything = frozenset(node.name for node in search.nodes(search.prepared))
    errors: dict[float, Array] = {}
    for index, alpha in enumerate((0.0, *GRID)):
        search.progress("searching smoothing", index, len(GRID) + 2)
        strengths = dict.fromkeys(plan.points, alpha)
        errors[alpha] = _over(folds, strengths, [*questions, everything])
    whole = {alpha: found[:, -1] for alpha, found in errors.items()}
    uniform = min(GRID, key=lambda alpha: float(whole[alpha].sum()))
    best = {}
    for number, point in enumerate(plan.points):
        own = {alpha: found[:, number] for alpha, found in errors.items()}
        best[point] = _worth_it(point, own, _best(own, uniform))
    mixed = _over(folds, best, [everything])[:, 0]
    search.progress("searching smoothing", len(GRID) + 2, len(GRID) + 2)
    choices = {0.0: dict.fromkeys(best, 0.0), uniform: dict.fromkeys(best, uniform)}
    least = min(choices, key=lambda alpha: float(whole[alpha].sum()))
    return _at(plan, best if mixed.sum() <= whole[least].sum() else choices[least])


def _folds(search: Search) -> list[_Fold]:
    feeds = search.feeds[:_SCORED]
    if len(feeds) < _FEWEST:
        return [_Fold(search, _plan(search), feeds)]
    half = len(feeds) // 2  # not every other one: files of two kinds are read in turn
    halves = [replace(search, feeds=part) for part in (feeds[:half], feeds[half:])]
    return [
        _Fold(made, _plan(made), other.feeds)
        for made, other in zip(halves, reversed(halves), strict=True)
    ]


def _over(
    folds: Sequence[_Fold], strengths: Mapping[SmoothPoint, float], questions: Sequence[Question]
) -> Array:
    """Return the squared errors of all folds' samples, float64 [samples, questions]."""
    rows = [_errors(f.search, _at(f.plan, strengths), questions, f.scored) for f in folds]
    return np.concatenate(rows)


def _plan(search: Search) -> SmoothingPlan:
    nodes = search.nodes(search.prepared)
    feeds, provider = search.feeds, search.provider
    return SmoothingPlan(search.prepared, nodes, feeds, provider, memory=search.memory)


def _at(plan: SmoothingPlan, strengths: Mapping[SmoothPoint, float]) -> Choice:
    """Return each point at its strength; those at 0 are left alone."""
    return tuple(plan.at(point, alpha) for point, alpha in strengths.items() if alpha)


def _best(errors: Mapping[float, Array], start: float) -> float:
    """Return the strength with the least error, summed over samples; `start` where that is less by
    no more than two standard errors.
    """
    alpha = min(errors, key=lambda value: float(errors[value].sum()))
    return alpha if _is_more(errors[start], errors[alpha], _SURE) else start


def _is_more(errors: Array, others: Array, sure: float) -> bool:
    """Return whether `errors` are larger by more than so many standard errors of the difference."""
    if np.isinf(errors).any():
        return True
    more = errors - others
    noise = more.std(ddof=1) / np.sqrt(len(more)) if len(more) > 1 else 0.0
    return bool(more.mean() > sure * noise)


def _worth_it(point: SmoothPoint, errors: Mapping[float, Array], alpha: float) -> float:
    """Return `alpha`, or 0 where that is better by a standard error, or a Mul brings too little.

    A point that a neighbour's weight absorbs costs nothing.
    """
    if point.absorbers:
        return 0.0 if _is_more(errors[alpha], errors[0.0], 1.0) else alpha
    needed = _WORTH_ON_MAPS if point.spatial else _WORTH
    return alpha if errors[alpha].sum() < needed * errors[0.0].sum() else 0.0


def _errors(
    search: Search, choice: Choice, questions: Sequence[Question], scored: Sequence[Feed]
) -> Array:
    """Return the squared error summed over the outputs, float64 [samples, questions], of the feeds
    `scored`; infinity where the outputs cannot be compared.
    """
    model = smoothed(search.prepared, choice)
    nodes = search.nodes(model)
    ranges = calibrate(
        model, nodes, search.feeds, search.scheme, search.run, smoothing=choice,
        memory=search.memory,
    )  # fmt: skip
    made = fake_quantization(
        quantization_parameters(model.model, nodes, ranges.by_name(), search.scheme)
    )
    if search.provider is Provider.CPU and is_half(model.model):
        model, scored, made = in_single(model), FeedsInSingle(scored), made.in_single()
    with tempfile.TemporaryDirectory(prefix="qgraph-states-") as folder:
        engine = WavefrontAnswerer(
            model, nodes, made, search.scored, scored[0], search.provider,
            memory=search.memory, folder=Path(folder),
        )  # fmt: skip
        at_once = engine.samples_at_once(questions)
        chunks = [scored[first : first + at_once] for first in range(0, len(scored), at_once)]
        rows = [row for chunk in chunks for row in engine.sums(questions, chunk, _ignore)]
    return np.array([[np.inf if item.failed else item.error for item in row] for row in rows])


def _ignore(_share: float) -> None:
    """Take no notice of progress within a sample."""

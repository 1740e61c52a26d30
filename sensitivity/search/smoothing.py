"""The strength of smoothing, searched for each tensor on the sensitivity engine.

For every strength of a grid, the model is smoothed everywhere, and each tensor's readers are
quantized alone: their error at the model's outputs tells the best strength for that tensor. As
smoothing changes no float value, points do not disturb each other. With everything quantized they
may, so the mixture is taken only where it beats the best uniform strength.

A strong smoothing fits channels to the samples it was made from, and a new sample is clipped where
it exceeds them. So what is chosen must prove itself: made from half of the samples, it must bring
less error on the others than no smoothing at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.widen import FeedsInSingle, in_single, is_half
from graph.progress import Progress, silent
from graph.runtime.memory import Memory
from graph.runtime.session import Provider
from graph.tensors import Array, Feed
from quantize.emit import fake_quantization, quantization_parameters
from quantize.ranges import RangesRun, SmoothedTensor, calibrate
from quantize.scheme import Scheme
from quantize.smooth.plan import SmoothingPlan, smoothed
from quantize.smooth.points import SmoothPoint
from sensitivity.engine import Question, Scored
from sensitivity.wavefront.engine import WavefrontEngine

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SCORED = 16
"""Samples that are scored at most. A sample of a decoder is many tokens, one of a classifier a
single answer: four of those tell strengths apart by chance."""
_FEWEST = 4
"""Samples below which none are held back: halves of them would say nothing."""
_WORTH = 0.9
"""An explicit Mul costs time, so it must bring the error of its readers down to this share."""

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


def search_smoothing(search: Search) -> Choice:
    """Return the strength of each tensor; one that is better left alone is not named."""
    scored = search.feeds[:_SCORED]
    plan = _plan(search)
    choices: dict[float, Choice] = {0.0: ()} | {alpha: plan.everywhere(alpha) for alpha in GRID}
    questions = [frozenset(point.quantized) for point in plan.points]
    everything = frozenset(node.name for node in search.nodes(search.prepared))
    errors: dict[float, Array] = {}
    for index, (alpha, choice) in enumerate(choices.items()):
        search.progress("searching smoothing", index, len(choices) + 1)
        errors[alpha] = _errors(search, choice, [*questions, everything], scored)
    best = {
        point: _best({a: found[:, number] for a, found in errors.items()}, _needed(point))
        for number, point in enumerate(plan.points)
    }
    mixed = _errors(search, _at(plan, best), [everything], scored)[:, 0]
    whole = {alpha: found[:, -1] for alpha, found in errors.items()}
    uniform = _best(whole)
    if mixed.sum() > whole[uniform].sum():
        best = dict.fromkeys(best, uniform)
    proved = len(search.feeds) < _FEWEST or _holds(search, best, everything)
    search.progress("searching smoothing", len(choices) + 1, len(choices) + 1)
    return _at(plan, best) if proved else ()


def _holds(search: Search, strengths: Mapping[SmoothPoint, float], everything: Question) -> bool:
    """Return whether smoothing from the first half of the samples helps on the second."""
    half = len(search.feeds) // 2  # not every other one: files of two kinds are read in turn
    first, rest = replace(search, feeds=search.feeds[:half]), search.feeds[half:][:_SCORED]
    choice = _at(_plan(first), strengths)
    none, some = (_errors(first, item, [everything], rest)[:, 0] for item in ((), choice))
    return _best({0.0: none, 1.0: some}) == 1.0


def _plan(search: Search) -> SmoothingPlan:
    nodes = search.nodes(search.prepared)
    feeds, provider = search.feeds, search.provider
    return SmoothingPlan(search.prepared, nodes, feeds, provider, memory=search.memory)


def _at(plan: SmoothingPlan, strengths: Mapping[SmoothPoint, float]) -> Choice:
    """Return each point at its strength; those at 0 are left alone."""
    return tuple(plan.at(point, alpha) for point, alpha in strengths.items() if alpha)


def _needed(point: SmoothPoint) -> float:
    """Return the share that the error must come down to."""
    return 1.0 if point.absorbers else _WORTH


def _best(errors: Mapping[float, Array], needed: float = 1.0) -> float:
    """Return the strength with the least error, summed over samples; 0 where smoothing does not
    bring it down to the share `needed`, or by less than one standard error.
    """
    alpha = min(errors, key=lambda value: float(errors[value].sum()))
    with np.errstate(invalid="ignore"):
        gains = errors[0.0] - errors[alpha]
        noise = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    sure = not gains.mean() <= noise  # where nothing can be compared without smoothing, it is NaN
    return alpha if sure and errors[alpha].sum() < needed * errors[0.0].sum() else 0.0


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
        engine = WavefrontEngine(
            model, nodes, made, search.scored, scored[0], search.provider,
            memory=search.memory, folder=Path(folder),
        )  # fmt: skip
        at_once = engine.samples_at_once(questions)
        chunks = [scored[first : first + at_once] for first in range(0, len(scored), at_once)]
        rows = [row for chunk in chunks for row in engine.sums(questions, chunk, _ignore)]
    return np.array([[np.inf if item.failed else item.error for item in row] for row in rows])


def _ignore(_share: float) -> None:
    """Take no notice of progress within a sample."""

"""The strength of smoothing, searched for each tensor on the sensitivity engine.

For every strength of a grid, the model is smoothed everywhere, and each tensor's readers are
quantized alone: their error at the model's outputs tells the best strength for that tensor. As
smoothing changes no float value, points do not disturb each other. With everything quantized they
may, so the mixture is taken only where it beats the best uniform strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.progress import Progress, silent
from graph.runtime.distance import Sums
from graph.runtime.session import Provider
from graph.tensors import Feed
from quantize.emit import fake_quantization, quantization_parameters
from quantize.ranges import RangesRun, SmoothedTensor, calibrate
from quantize.scheme import Scheme
from quantize.smooth.plan import SmoothingPlan, smoothed
from quantize.smooth.points import SmoothPoint
from sensitivity.engine import Question, Scored
from sensitivity.switch import SwitchEngine

GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SAMPLES = 4
"""Enough to tell strengths apart: the error of one point varies far more with strength than with
the sample."""
_WORTH = 0.9
"""An explicit Mul costs time, so it must bring the error of its readers down to this share."""

Nodes = Callable[[PreparedModel], Sequence[QuantizableNode]]
"""Returns the candidates of a model, which smoothing may make read other tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What is asked: `feeds` calibrate, the first few of them are scored."""

    prepared: PreparedModel
    nodes: Nodes
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    run: RangesRun
    progress: Progress = silent

    @property
    def provider(self) -> Provider:
        """Return where to run."""
        return Provider(self.run.provider)


Choice = tuple[SmoothedTensor, ...]


def search_smoothing(search: Search) -> Choice:
    """Return the strength of each tensor; one that is better left alone is not named."""
    plan = SmoothingPlan(
        search.prepared, search.nodes(search.prepared), search.feeds, search.provider
    )
    choices: dict[float, Choice] = {0.0: ()} | {alpha: plan.everywhere(alpha) for alpha in GRID}
    questions = [frozenset(point.quantized) for point in plan.points]
    everything = frozenset(node.name for node in search.nodes(search.prepared))
    errors: dict[float, list[float]] = {}
    for index, (alpha, choice) in enumerate(choices.items()):
        search.progress("searching smoothing", index, len(choices) + 1)
        errors[alpha] = _errors(search, choice, [*questions, everything])
    mixture = tuple(
        plan.at(point, alpha)
        for number, point in enumerate(plan.points)
        if (alpha := _best(point, {a: found[number] for a, found in errors.items()}))
    )
    mixed = _errors(search, mixture, [everything])[0]
    search.progress("searching smoothing", len(choices) + 1, len(choices) + 1)
    uniform = min(errors, key=lambda alpha: errors[alpha][-1])
    return mixture if mixed <= errors[uniform][-1] else choices[uniform]


def _best(point: SmoothPoint, errors: Mapping[float, float]) -> float:
    """Return the strength with the least error, 0 where smoothing is not worth it."""
    alpha = min(errors, key=lambda value: errors[value])
    needed = 1.0 if point.absorbers else _WORTH
    return alpha if errors[alpha] < needed * errors[0.0] else 0.0


def _errors(search: Search, choice: Choice, questions: Sequence[Question]) -> list[float]:
    """Return the mean squared error at the scored outputs for each question; infinity where the
    outputs cannot be compared.
    """
    model = smoothed(search.prepared, choice)
    nodes = search.nodes(model)
    ranges = calibrate(model, nodes, search.feeds, search.scheme, search.run, smoothing=choice)
    parameters = quantization_parameters(model.model, nodes, ranges.by_name(), search.scheme)
    engine = SwitchEngine(
        model, nodes, fake_quantization(parameters), search.scored, search.provider
    )
    rows = engine.sums(questions, search.feeds[:_SAMPLES], _ignore)
    totals = [reduce(Sums.__add__, row) for row in zip(*rows, strict=True)]
    return [float("inf") if item.failed else item.result().mse for item in totals]


def _ignore(_share: float) -> None:
    """Take no notice of progress within a sample."""

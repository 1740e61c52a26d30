"""Scoring each sample with ranges that come from others, as data that ranges do not know will be.

On extremes of the scored samples themselves nothing would ever be clipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Generic, Protocol, TypeVar, runtime_checkable

from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import give_back
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.loop import Asking, Limits, Scores, asking, score_in_turn
from qgraph._sensitivity.scoring.questions import Answerer, Question, Step

A = TypeVar("A", bound=Answerer)


@runtime_checkable
class FoldAnswerer(Answerer, Protocol):
    """Answers about samples of any fold, with no session opened for each: scales are fed."""

    def sums_by(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        models: Sequence[ComputedModel],
        step: Step,
    ) -> Iterable[Sequence[Sums]]:
        """Return what `sums` does; `models`: how each sample is computed, which is how the model
        was that this was opened with, but for scales.
        """
        ...


class Folds(Generic[A]):
    """Asks about the samples of `model`. `open_one` returns what answers: one for all folds, if it
    is a `FoldAnswerer`, else fold after fold, with one open at a time. `opening`: the seconds that
    took.
    """

    def __init__(self, open_one: Callable[[ComputedModel], A], model: ComputedModel) -> None:
        self._open_one, self._model, self._folds = open_one, model, model.folds()
        self._open: tuple[int, A] | None = None
        self.opening = 0.0

    def open(self) -> None:
        """Open the first, which takes what is no part of scoring's time."""
        self._opened(0)

    @property
    def answerer(self) -> A:
        """Return the one that is open, else the first."""
        return self._opened(0) if self._open is None else self._open[1]

    @property
    def share(self) -> float:
        """Return the share of all samples that the one which is open is asked about."""
        if isinstance(self.answerer, FoldAnswerer):
            return 1.0
        samples, _ = self._folds[0 if self._open is None else self._open[0]]
        return len(samples) / len(self._model.feeds)

    def score(
        self,
        questions: Sequence[Question],
        limits: Limits,
        progress: Progress = silent,
        samples: Collection[int] | None = None,
    ) -> Scores:
        """Return the sums for every question and sample, or for some samples; see `score`."""
        asked = range(len(self._model.feeds)) if samples is None else samples
        numbers = [[n for n in of if n in asked] for of, _ in self._folds]
        if not limits.late and isinstance(engine := self._opened(0), FoldAnswerer):
            together = [(list(chain(*numbers)), lambda: self._asking_all(engine))]
            return score_in_turn(together, questions, limits, progress)
        folds = [(of, partial(self._asking, at)) for at, of in enumerate(numbers)]
        return score_in_turn(folds, questions, limits, progress)

    def _asking_all(self, engine: FoldAnswerer) -> tuple[Answerer, Asking]:
        """Return what asks `engine` about samples of all folds."""
        models = {number: model for numbers, model in self._folds for number in numbers}

        def ask(
            questions: Sequence[Question], asked: Sequence[int], step: Step
        ) -> Iterable[Sequence[Sums]]:
            feeds = [self._model.feeds[number] for number in asked]
            return engine.sums_by(questions, feeds, [models[number] for number in asked], step)

        return engine, ask

    def _asking(self, at: int) -> tuple[Answerer, Asking]:
        return asking(self._opened(at), self._model.feeds)

    def _opened(self, at: int) -> A:
        if self._open is None or self._open[0] != at:
            self._open = None  # before the next, or memory would hold both
            give_back()
            clock = time.perf_counter()
            self._open = at, self._open_one(self._folds[at][1])
            self.opening += time.perf_counter() - clock
        return self._open[1]

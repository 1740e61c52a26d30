"""Scoring each sample with ranges that come from others, as data that ranges do not know will be.

On extremes of the scored samples themselves nothing would ever be clipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Generic, TypeVar

from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import give_back
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.loop import Limits, Scores, score_in_turn
from qgraph._sensitivity.scoring.questions import Answerer, Question

A = TypeVar("A", bound=Answerer)


class Folds(Generic[A]):
    """Asks about the samples of `model`, fold after fold, with one answerer open at a time, which
    `open_one` returns. `opening`: the seconds that took.
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
        folds = [
            ([n for n in numbers if n in asked], partial(self._opened, at))
            for at, (numbers, _) in enumerate(self._folds)
        ]
        return score_in_turn(folds, questions, self._model.feeds, limits, progress)

    def _opened(self, at: int) -> A:
        if self._open is None or self._open[0] != at:
            self._open = None  # before the next, or memory would hold both
            give_back()
            clock = time.perf_counter()
            self._open = at, self._open_one(self._folds[at][1])
            self.opening += time.perf_counter() - clock
        return self._open[1]

"""Samples in halves, each judging forms of the model that were made from the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.progress import silent
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.smooth.plan import SmoothingPlan, smoothed
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search, Trial

SHARES = (0.5, 0.75, 1.0)
"""Of the nodes, those that harm least first: what profiles quantize."""
EVEN = 1.01
"""Above a plain error no more than this counts as equal: float outputs round differently, too."""
_SCORED = 16
"""Samples that are looked at, at most. A sample of a decoder is many tokens, one of a classifier a
single answer: four of those tell strengths apart by chance."""
_FEWEST = 4
"""Samples below which all make the model that is scored: halves of them would say nothing."""

Choice = tuple[SmoothedTensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedHalf:
    """`scored` samples, on models made from those of `search`, which `plan` has seen."""

    search: Search
    plan: SmoothingPlan
    scored: Sequence[Feed]

    def form(self, choice: Choice) -> tuple[Trial, FakeQuantization]:
        """Return the model smoothed and rotated as chosen, and what its nodes compute with."""
        search = self.search
        model = smoothed(search.prepared, choice)
        nodes = search.nodes(model)
        ranges = calibrate(
            model, nodes, search.feeds, search.scheme, search.run, smoothing=choice,
            memory=search.memory,
        )  # fmt: skip
        parameters = quantization_parameters(model.model, nodes, ranges.by_name(), search.scheme)
        return Trial(search, model, nodes, self.scored), fake_quantization(parameters)

    def measured(self, choice: Choice, sets: Sequence[Question]) -> Array:
        """Return the errors of sets of nodes, float64 [samples, sets]."""
        trial, made = self.form(choice)
        return np.array(
            [[squared_error(item) for item in row] for row in trial.measures(made, sets)]
        )


def plan_of(search: Search) -> SmoothingPlan:
    """Return the points of a model, with what the samples show of them."""
    nodes, feeds = search.nodes(search.prepared), search.feeds
    return SmoothingPlan(
        search.prepared, nodes, feeds, search.provider, search.progress, search.memory,
        search.elsewhere,
    )  # fmt: skip


def halves_of(search: Search) -> list[JudgedHalf]:
    """Return both halves of the samples, of few samples one that judges itself."""
    # the caller tells of its own; and these are few samples
    search = replace(search, progress=silent, elsewhere=None)
    feeds = search.feeds[:_SCORED]
    if len(feeds) < _FEWEST:
        return [JudgedHalf(search, plan_of(search), feeds)]
    middle = len(feeds) // 2  # not every other one: files of two kinds are read in turn
    made = [replace(search, feeds=part) for part in (feeds[:middle], feeds[middle:])]
    return [
        JudgedHalf(each, plan_of(each), other.feeds)
        for each, other in zip(made, reversed(made), strict=True)
    ]


def squared_error(item: Sums) -> float:
    """Return the squared error, of all outputs together; infinity where it is no number."""
    return np.inf if item.failed else item.error

"""Measuring a few nodes exactly, after all were estimated: where it decides most."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from qgraph._graph.run.memory import give_back
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures, Sums, figures
from qgraph._sensitivity.beside_scores import Verified
from qgraph._sensitivity.engines.exact import Exactly, exact_scores
from qgraph._sensitivity.engines.question_engine import Asked
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.ranking.agreement import spearman
from qgraph._sensitivity.ranking.interactions import NO_WEIGHT
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS
from qgraph._sensitivity.report import Score, Stability
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.loop import Scores
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.scoring.sums_table import SumsTable
from qgraph._sensitivity.scoring.work import Work

K = TypeVar("K")

_WORST = 0.5
"""Share of what is measured that goes to the worst nodes; the rest to those at cuts."""
_UNSETTLED = 2
"""Standard errors from a cut up to which a node's place is not settled."""
WORST, AT_CUT = "one of the worst", "its place at a cut is not settled"
SPREAD = "one of some spread over all ranks"
NO_NUMBER = "its gradient is no number"
_CHECKED_WORST = 20
"""One node in so many, the worst, is checked."""
_CHECKED_SPREAD = 8
"""Nodes spread over all ranks, so that the agreement says something of the whole order."""
_CHECKED_PRICE = 0.25
"""Share of what measuring every node takes that checking may take."""


def nodes_to_measure(
    harms: Mapping[str, float], stability: Mapping[str, Stability], count: int
) -> dict[str, str]:
    """Return at most `count` nodes → why: the worst, and those nearest to the cut of a profile in
    units of their standard error.
    """
    ordered = sorted(harms, key=lambda name: -harms[name])
    found = dict.fromkeys(ordered[: math.ceil(_WORST * count)], WORST)
    near = _unsettled(harms, stability, dict.fromkeys(harms, 1.0))
    unsettled = [name for name in near if name not in found]
    return found | dict.fromkeys(unsettled[: count - len(found)], AT_CUT)


def nodes_to_check(
    harms: Mapping[str, float],
    stability: Mapping[str, Stability],
    costs: Mapping[str, float],
    prices: Mapping[str, float],
    most: float = math.inf,
) -> dict[str, str]:
    """Return the nodes to measure → why: some spread over all ranks, the worst, and those whose
    place at the cut of a profile is not settled, as long as they take no more than a quarter of
    what measuring all takes, nor than `most`.

    `costs`: node → what profiles take their shares of, and divide damage by; `prices`: node →
    forwards to measure it.
    """
    ordered = sorted(harms, key=lambda name: -harms[name])
    spread = ordered[:: max(1, len(ordered) // _CHECKED_SPREAD)]
    worst = ordered[: math.ceil(len(ordered) / _CHECKED_WORST)]
    wanted = [*spread, *worst, *_unsettled(harms, stability, costs)]
    left, taken = min(_CHECKED_PRICE * sum(prices[name] for name in harms), most), set()
    for name in dict.fromkeys(wanted):
        if prices[name] <= left:
            left -= prices[name]
            taken.add(name)
    reasons = dict.fromkeys(wanted, AT_CUT) | dict.fromkeys(spread, SPREAD)
    reasons |= dict.fromkeys(worst, WORST)
    return {name: reasons[name] for name in ordered if name in taken}


def _unsettled(
    harms: Mapping[str, float], stability: Mapping[str, Stability], costs: Mapping[str, float]
) -> list[str]:
    """Return the nodes within some standard errors of a cut, the nearest first."""
    if not harms:
        return []
    by_cost = {name: harms[name] / max(costs.get(name, 0.0), NO_WEIGHT) for name in harms}
    cuts = _cuts(by_cost, costs)

    def distance(name: str) -> float:
        seen = stability.get(name)
        error = seen.standard_error if seen is not None and seen.standard_error else 0.0
        nearest = min((abs(1 - cut / by_cost[name]) for cut in cuts), default=math.inf)
        return nearest * harms[name] / error if error else math.inf

    judged = [name for name in sorted(harms, key=lambda name: -harms[name]) if harms[name] > 0]
    near = sorted(judged, key=distance)
    return [name for name in near if distance(name) <= _UNSETTLED]


def _cuts(by_cost: Mapping[str, float], costs: Mapping[str, float]) -> list[float]:
    """Return the harm by cost at which each profile is cut, which takes the least of it first."""
    names = sorted(by_cost, key=lambda name: by_cost[name])
    sums = np.cumsum([costs.get(name, 0.0) for name in names])
    places = [int(np.abs(sums - share * sums[-1]).argmin()) + 1 for share in DEFAULT_CUTS.values()]
    values = [by_cost[name] for name in names]
    return [(values[at - 1] + values[at]) / 2 for at in places if at < len(values)]


def measured_exactly(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    walks: Walks,
    questions: Mapping[K, Question],
    samples: Sequence[int],
) -> dict[K, Figures]:
    """Return the exact figures of some questions, over the samples that were estimated; none where
    time runs out.
    """
    found = as_far_as_time_allows(work, model, runtime, walks, questions, samples)
    if not found.complete or not questions:
        return {}
    known = zip(questions, found.figures(), strict=True)
    return {key: item for key, item in known if item is not None}


def as_far_as_time_allows(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    walks: Walks,
    questions: Mapping[K, Question],
    samples: Sequence[int],
) -> Scores:
    """Return the exact sums of some questions, over as many of the samples as there is time for."""
    asked = frozenset().union(*questions.values())
    if not questions:
        return Scores(SumsTable(), complete=False, resumed=0)

    each, opened = list(questions.values()), partial(walks.about, asked)
    progress = runtime.progress
    return exact_scores(work, model, runtime, Exactly.WALKS, opened, each, samples, progress)


class Walks:
    """Opens what answers by walks: where memory holds the model as a whole once, for all nodes;
    else each time, for the nodes asked about. `folder`: as for `by_walks`.
    """

    def __init__(
        self, model: ComputedModel, runtime: Runtime, folder: Path, *, whole: bool
    ) -> None:
        self._model, self._runtime, self._folder = model, runtime, folder
        self.whole = whole
        self._open: Folds[WavefrontAnswerer] | None = None

    def about(self, asked: Collection[str]) -> Folds[WavefrontAnswerer]:
        """Return what answers about the nodes `asked`, at least."""
        if not self.whole:
            return by_walks(self._model, self._runtime, self._folder, asked)
        return self.all()

    def all(self) -> Folds[WavefrontAnswerer]:
        """Return what answers about all nodes."""
        if self._open is None:
            names = [node.name for node in self._model.nodes]
            self._open = by_walks(self._model, self._runtime, self._folder, names)
        return self._open

    def close(self) -> None:
        """Give the memory back; the next question opens it again."""
        self._open = None
        give_back()


def by_walks(
    model: ComputedModel, runtime: Runtime, folder: Path, asked: Collection[str]
) -> Folds[WavefrontAnswerer]:
    """Return what answers about the nodes `asked` by walks; `folder`: for what memory has no room
    for.
    """

    def open_one(part: ComputedModel) -> WavefrontAnswerer:
        nodes = [node for node in part.nodes if node.name in asked]
        return WavefrontAnswerer(
            part.prepared, nodes, part.fake, part.scored, part.feeds[0], runtime.provider,
            memory=runtime.memory, folder=folder, resumable=False,
        )  # fmt: skip

    return Folds(open_one, model)


def agreement_on(asked: Asked, exact: Scores, names: Sequence[str], metric: str) -> Verified | None:
    """Return how the estimates of `names` stand to exact scores, on the samples that have both."""
    place = {key: at for at, key in enumerate(asked.questions)}
    rows = [asked.scores.table[number] for number in exact.table]
    totals = [sum((row[place["solo", name]] for row in rows), Sums()) for name in names]
    both = [
        (name, Score.of(figures(total)), Score.of(item))
        for name, total, item in zip(names, totals, exact.figures(), strict=bool(rows))
        if item is not None and not total.failed
    ]
    return agreement({n: a for n, a, _ in both}, {n: b for n, _, b in both}, metric)


def agreement(
    estimated: Mapping[str, Score], exact: Mapping[str, Score], metric: str
) -> Verified | None:
    """Return how the estimates of the nodes that were measured stand to their exact scores."""
    names = [name for name in exact if name in estimated]
    pairs = [[harm(of[name], None, None, metric) for name in names] for of in (estimated, exact)]
    ratios = [a / b for a, b in zip(*pairs, strict=True) if b and math.isfinite(a / b)]
    if len(ratios) < 2:
        return None
    return Verified(
        nodes=len(names),
        # what tells no nodes apart agrees with nothing
        spearman=spearman(*map(np.array, pairs)) or 0.0,
        ratio=statistics.median(ratios),
    )

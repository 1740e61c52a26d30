"""Which questions are asked, and the scores read from their answers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._metrics import Figures
from qgraph._quantize.companions import Companion
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.ranking.order import harm, ranks
from qgraph._sensitivity.report import Direction, Score, Stability
from qgraph._sensitivity.scoring.questions import AllBut, Key, Question

_ALL: Key = ("all", "")


def ask(
    nodes: Sequence[QuantizableNode],
    groups: Sequence[Group],
    direction: Direction,
    companions: Sequence[Companion] = (),
) -> dict[Key, Question]:
    """Return key → the set of quantized nodes, for every unit in the directions asked for.

    A companion is quantized where the convolution beside it is, as in the emitted model.
    """
    beside: dict[str, set[str]] = {node.name: {node.name} for node in nodes}
    for companion in companions:
        beside[companion.beside].add(companion.node.name)
    everything = frozenset().union(*beside.values())
    units = {name: frozenset(names) for name, names in beside.items()}
    units |= {
        group.name: frozenset().union(*(beside[name] for name in group.members)) for group in groups
    }
    questions: dict[Key, Question] = {_ALL: everything}
    for name, members in units.items():
        if direction.has_solo:
            questions["solo", name] = members
        if direction.has_leave_one_out:
            questions["without", name] = AllBut(everything, members)
    return questions


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of nodes and groups, by name: each alone, each left out alone; `everything`: all
    candidates quantized. What has none is not there.
    """

    solo: Mapping[str, Score]
    without: Mapping[str, Score]
    everything: Score | None = None

    def harms(self, names: Iterable[str], metric: str) -> list[float]:
        """Return how much quantizing each hurts."""
        return [
            harm(self.solo.get(name), self.without.get(name), self.everything, metric)
            for name in names
        ]


def read_answers(keys: Sequence[Key], found: Sequence[Figures | None]) -> ScoreTable:
    """Return the scores in the answers to `ask`'s questions; None: no answer."""
    answers = {key: item for key, item in zip(keys, found, strict=True) if item is not None}
    whole = answers.get(_ALL)
    gain_over = None if whole is None else whole["mse"]

    def without(figures: Figures) -> Score:
        mse = figures["mse"]
        return Score.of(figures, None if gain_over is None or mse is None else gain_over - mse)

    return ScoreTable(
        {name: Score.of(item) for (kind, name), item in answers.items() if kind == "solo"},
        {name: without(item) for (kind, name), item in answers.items() if kind == "without"},
        None if whole is None else Score.of(whole),
    )


def stability_of(
    tables: Iterable[ScoreTable], names: Sequence[str], metric: str
) -> dict[str, Stability]:
    """Return the range of each node's rank over tables of single samples, and the standard error
    of its damage; empty where there are fewer than two.
    """
    harms = [table.harms(names, metric) for table in tables]
    if len(harms) < 2:
        return {}
    rows = zip(*map(ranks, harms), strict=True)
    values = zip(*harms, strict=True)
    return {
        name: Stability(rank_min=min(row), rank_max=max(row), standard_error=_error_of(seen))
        for name, row, seen in zip(names, rows, values, strict=True)
    }


def _error_of(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of `values`, None where one is not finite."""
    if not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values) / math.sqrt(len(values))

"""Which questions further samples can still decide.

What profiles need of a ranking is which units lie before each cut. Samples are drawn anew, many
times over, from those scored: a unit that stays on its side of every cut in nearly all draws is
settled, and is not asked about any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._sensitivity.engines.questions import Key
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS
from qgraph._sensitivity.report import Metric
from qgraph._sensitivity.scoring.sums_table import COLUMN, filled

_DRAWS = 400
_SURE = 0.99
"""Share of draws that agree. High, since what is settled is not looked at again."""
_FIRST_LOOK, _NEXT_LOOK = 8, 4
"""Samples before the first look, and between looks: fewer say little of their spread."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """What enters a profile together: `solo` and `without`, the questions that rank it (None where
    not asked); `all`: those that concern it or a member; `nodes`: how many it has.
    """

    solo: int | None
    without: int | None
    all: tuple[int, ...]
    nodes: int


class Settling:
    """Tells, after some samples, which questions are worth more. `reference`: the question that is
    always asked, everything quantized.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        nodes: Sequence[str],
        groups: Sequence[Group],
        metric: Metric,
        cuts: Mapping[str, float] = DEFAULT_CUTS,
    ) -> None:
        self._places = {key: index for index, key in enumerate(keys)}
        self.reference = self._places["all", ""]
        self._figure = COLUMN["relative" if metric is Metric.NOISE_TO_SIGNAL else "error"]
        grouped = {name for group in groups for name in group.members}
        self._units = [self._unit(group.name, group.members) for group in groups]
        self._units += [self._unit(name, (name,)) for name in nodes if name not in grouped]
        # nothing lies behind a cut at 1
        self._cuts = [share for share in cuts.values() if share < 1]

    def _unit(self, name: str, members: Sequence[str]) -> _Unit:
        names = {name, *members}
        concerned = tuple(index for (_, of), index in self._places.items() if of in names)
        solo, without = (self._places.get((kind, name)) for kind in ("solo", "without"))
        return _Unit(solo, without, concerned, len(members))

    @staticmethod
    def due(samples: int) -> bool:
        """Return whether it is time to look."""
        return samples >= _FIRST_LOOK and samples % _NEXT_LOOK == 0

    @staticmethod
    def until_due(samples: int) -> int:
        """Return how many more samples there are before the next look."""
        if samples < _FIRST_LOOK:
            return _FIRST_LOOK - samples
        return _NEXT_LOOK - samples % _NEXT_LOOK

    def open(self, sums: Array) -> frozenset[int]:
        """Return the questions to go on with, after `sums` [samples, questions, sums]; NaN where a
        question was not asked. None but the reference where all is settled.
        """
        asked = frozenset(np.flatnonzero(~np.isnan(sums[-1, :, 0])).tolist())
        failed = np.nansum(sums[:, :, COLUMN["failed"]], axis=0) > 0
        if failed[self.reference]:  # nothing is there to scale the others by
            return asked
        units = [unit for unit in self._units if not failed[list(unit.all)].any()]
        if not units:
            return frozenset({self.reference})
        unsure = self._unsure(units, filled(sums, self.reference))
        still = {
            index
            for unit, doubtful in zip(units, unsure, strict=True)
            for index in unit.all
            if doubtful
        }
        return (frozenset(still) & asked) | {self.reference}

    def _errors(self, units: Sequence[_Unit], sums: Array) -> Array:
        """Return [samples, units]: what a unit adds for each of its nodes."""
        figure = sums[:, :, self._figure]
        columns = []
        for unit in units:
            if unit.solo is not None:
                error = figure[:, unit.solo]
            else:
                error = figure[:, self.reference] - figure[:, unit.without]
            columns.append(error / unit.nodes)
        return np.stack(columns, axis=1)

    def _unsure(self, units: Sequence[_Unit], sums: Array) -> Array:
        """Return whether each unit's side of some cut depends on the samples."""
        errors = self._errors(units, sums)
        count = len(errors)
        generator = np.random.default_rng(0)
        weights = generator.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
        order = np.argsort(weights @ errors, axis=1, kind="stable")
        sizes = np.array([unit.nodes for unit in units])
        place = np.argsort(order, axis=1)
        reached = np.cumsum(sizes[order] / sizes.sum(), axis=1)
        unsure = np.zeros(len(units), dtype=bool)
        for cut in self._cuts:
            # as profiles are cut, by the same sums: what comes nearest, of two the first
            last = np.argmin(np.abs(reached - cut), axis=1)
            inside = (place <= last[:, None]).mean(axis=0)
            unsure |= (inside > 1 - _SURE) & (inside < _SURE)
        return unsure

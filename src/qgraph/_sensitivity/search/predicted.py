"""The largest profile that meets a budget, found on switches in a handful of measurements: no model
is emitted on the way.

For any damage there is a largest set that is predicted to do no more, and finding it runs no model.
So one number is looked for: the damage up to which such sets meet the budget. What was measured
says how the metric grows with predicted damage; each next one goes where it would meet the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qgraph._graph.errors import InputError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.tensors import Array
from qgraph._metrics import METRICS
from qgraph._metrics.budget import Budget
from qgraph._sensitivity.ranking.interactions import NO_WEIGHT
from qgraph._sensitivity.ranking.profiles import Unit
from qgraph._sensitivity.search.sets import largest_within

_MOST = 6
"""Sets that are measured at most."""
_LOOKS = 60
"""Damages that sets are looked for at, at most: many give one that is known."""
_APART = 0.05
"""Share of the bracket that the next damage keeps from its ends."""


Measure = Callable[[frozenset[str]], float]
"""Returns the metric with exactly these nodes quantized."""


@dataclass(frozen=True, slots=True)
class WithinBudget:
    """`units` meet the budget with `value`; `measurements` were made."""

    units: tuple[Unit, ...]
    value: float
    measurements: int


@dataclass(frozen=True, slots=True)
class _Point:
    """A set's predicted damage, and what it costs of the metric."""

    damage: float
    lost: float
    fits: bool


_FLOAT = _Point(0.0, 0.0, fits=True)


def search_predicted(
    units: Sequence[Unit],
    pairs: Array,
    budget: Budget,
    measure: Measure,
    known: Mapping[frozenset[str], float],
    progress: Progress = silent,
) -> WithinBudget:
    """Return the largest set of `units` that was measured to meet the budget.

    `pairs`: the damage that units do together, in both orders; `known`: sets of nodes that were
    measured before, the float model among them, → the metric.

    Raises:
        InputError: not even the float model meets the budget.
    """
    value = known[frozenset()]
    if not budget.is_met(value, value):
        raise InputError(
            f"the float model itself does not meet {budget}: its {budget.metric} is {value:.6g}",
            hint="Ask for less; a limit with x is relative to the float model.",
        )
    search = _Search(units, pairs, budget, measure, known)
    search.look(np.ones(len(units), bool))
    for _ in range(_LOOKS):
        progress("searching the budget", search.measured, _MOST)
        if search.measured == _MOST or (damage := search.next_damage()) is None:
            break
        search.look(largest_within(pairs, search.weights, damage), damage)
    search.add_one_by_one()
    progress("searching the budget", search.measured, search.measured)
    inside = [units[at] for at in np.flatnonzero(search.best)]
    return WithinBudget(tuple(inside), search.value, search.measured)


class _Search:
    """What was measured, and the largest set of it that meets the budget."""

    def __init__(
        self,
        units: Sequence[Unit],
        pairs: Array,
        budget: Budget,
        measure: Measure,
        known: Mapping[frozenset[str], float],
    ) -> None:
        self._units, self._pairs, self._budget, self._measure = units, pairs, budget, measure
        self._known, self._points = dict(known), [_FLOAT]
        self._float = known[frozenset()]
        self._limit = self._lost(budget.bound(self._float))
        self._passed = 0.0
        self.weights = np.array([unit.weight for unit in units])
        self.best, self.value, self.measured = np.zeros(len(units), bool), self._float, 0
        for nodes in known:
            self.look(np.array([nodes.issuperset(unit.members) for unit in units]))

    def look(self, chosen: Array, damage: float | None = None) -> bool:
        """Take in a set, measured now if it was not before; return whether it is larger than the
        best so far, and fits. One that is no larger is not measured: nothing is gained up to
        `damage`, for which it was found.
        """
        if damage is not None and not self._is_larger(chosen):
            self._passed = damage
            return False
        nodes = frozenset(name for at in np.flatnonzero(chosen) for name in self._units[at].members)
        if nodes not in self._known:
            self._known[nodes] = self._measure(nodes)
            self.measured += 1
        value = self._known[nodes]
        fits = self._budget.is_met(value, self._float)
        reached = max(0.0, float(chosen @ self._pairs @ chosen)) if damage is None else damage
        self._points.append(_Point(reached, self._lost(value), fits))
        larger = fits and self._is_larger(chosen)
        if larger:
            self.best, self.value = chosen, value
        return larger

    def next_damage(self) -> float | None:
        """Return where the metric is expected to reach its limit, None where nothing is left."""
        above = sorted((p for p in self._points if not p.fits), key=lambda point: point.damage)
        if not above or self.best.all():
            return None
        end = above[0]
        below = [point for point in self._points if point.fits and point.damage < end.damage]
        start = max(below, key=lambda point: point.damage, default=_FLOAT)
        least = max(start.damage, self._passed)
        apart = _APART * (end.damage - least)
        if apart <= 1e-6 * end.damage:
            return None
        nearest = (start, end) if start.lost > 0 or len(above) < 2 else (end, above[1])
        return min(max(_reaching(self._limit, *nearest), least + apart), end.damage - apart)

    def add_one_by_one(self) -> None:
        """Try units beside the best set while measurements are left, those that add least first."""
        added = self._pairs.diagonal() + 2 * self._pairs @ self.best
        worth = added / np.maximum(self.weights, NO_WEIGHT)
        for at in np.argsort(worth, kind="stable"):
            if self.measured < _MOST and not self.best[at]:
                self.look(self.best | (np.arange(len(self.best)) == at))

    def _is_larger(self, chosen: Array) -> bool:
        return bool(self.weights @ chosen > self.weights @ self.best * (1 + 1e-9))

    def _lost(self, value: float) -> float:
        """Return how much worse a value is than the float model's, in an amount that adds up where
        the metric has one.
        """
        known = METRICS.get(self._budget.metric)
        if known is None or known.of_damage is None:
            return value - self._float if self._budget.at_most else self._float - value
        before = known.of_damage(self._float) if math.isfinite(self._float) else 0.0
        return known.of_damage(value) - before


def _reaching(limit: float, start: _Point, end: _Point) -> float:
    """Return the damage at which the loss is expected to be `limit`: by a power of the damage
    through both points, by a line from where there is neither.
    """
    if not start.lost < end.lost < math.inf:
        return (start.damage + end.damage) / 2
    if min(start.damage, start.lost, limit) <= 0:
        share = (limit - start.lost) / (end.lost - start.lost)
        return start.damage + share * (end.damage - start.damage)
    share = math.log(limit / start.lost) / math.log(end.lost / start.lost)
    return float(start.damage * (end.damage / start.damage) ** share)

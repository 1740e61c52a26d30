"""The largest set of units that is predicted to do no more than some damage."""

from __future__ import annotations

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._sensitivity.ranking.interactions import NO_WEIGHT

_EQUAL = 1e-9
"""Share up to which weights and damages count as the same."""


def largest_within(pairs: Array, weights: Array, limit: float) -> Array:
    """Return which units, True or False, weigh most with a damage of at most `limit`, as far as
    adding the cheapest one or taking out the dearest, and exchanging one for another, lead.

    `pairs`: the damage of units together, [units, units], symmetric; `weights`: [units].
    """
    weights = np.asarray(weights, float)
    none, everything = np.zeros(len(weights), bool), np.ones(len(weights), bool)
    found = [_Set(pairs, weights, limit, start).improved() for start in (none, everything)]
    return max(found, key=lambda chosen: float(weights @ chosen))


class _Set:
    """A set that grows; `_beside`: what each unit does together with all of it."""

    def __init__(self, pairs: Array, weights: Array, limit: float, start: Array) -> None:
        self._pairs, self._weights, self._limit = pairs, weights, limit
        self._own = pairs.diagonal()
        self._beside = pairs @ start
        self._damage = float(start @ self._beside)
        self.chosen = start.copy()

    def improved(self) -> Array:
        """Return the set after units were taken out, added and exchanged."""
        self.thin()
        self.fill()
        for _ in range(2 * len(self.chosen)):
            if not self.exchange():
                break
            self.fill()
        return self.chosen

    def thin(self) -> None:
        """Take out what does most for its weight, until the set does no more than the limit."""
        worth = np.maximum(self._weights, NO_WEIGHT)
        while self._damage > self._limit and self.chosen.any():
            freed = np.where(self.chosen, 2 * self._beside - self._own, -np.inf)
            self._move(int(np.argmax(np.where(self.chosen, freed / worth, -np.inf))), -1)

    def fill(self) -> None:
        """Add what does least for its weight, until nothing fits."""
        worth = np.maximum(self._weights, NO_WEIGHT)
        while True:
            added = self._own + 2 * self._beside
            fits = ~self.chosen & (self._damage + added <= self._limit)
            if not fits.any():
                return
            self._move(int(np.argmin(np.where(fits, added / worth, np.inf))), 1)

    def exchange(self) -> bool:
        """Put one unit in the place of another where that weighs more, or does less and weighs as
        much; return whether there is such a pair.
        """
        inside, outside = np.flatnonzero(self.chosen), np.flatnonzero(~self.chosen)
        if not len(inside) or not len(outside):
            return False
        added, freed = self._own + 2 * self._beside, self._own - 2 * self._beside
        change = freed[inside, None] + added[outside] - 2 * self._pairs[np.ix_(inside, outside)]
        gained = self._weights[outside] - self._weights[inside, None]
        least = _EQUAL * self._weights.max()
        better = (gained > least) | (
            (np.abs(gained) <= least) & (change < -_EQUAL * abs(self._damage))
        )
        better &= self._damage + change <= self._limit
        if not better.any():
            return False
        value = gained / self._weights.max() - 1e-3 * change / max(self._limit, 1e-300)
        out, into = np.unravel_index(np.argmax(np.where(better, value, -np.inf)), value.shape)
        self._move(int(inside[out]), -1)
        self._move(int(outside[into]), 1)
        return True

    def _move(self, unit: int, sign: int) -> None:
        """Take a unit in, or out with −1."""
        self._damage += self._own[unit] + sign * 2 * self._beside[unit]
        self._beside = self._beside + sign * self._pairs[unit]
        self.chosen[unit] = sign > 0

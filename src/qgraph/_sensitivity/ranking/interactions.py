"""What quantized nodes do together: the Gram matrix of their errors at the outputs.

The damage of a set is the sum of the matrix over its pairs, each node with itself included. Where
nested sets were measured, what their sums miss is shared out among the pairs of nodes that each
brings, in proportion to √(damage of one · damage of the other): so the sums of these sets are what
was measured, and single nodes keep their scores.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Collection, Sequence

import numpy as np

from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array
from qgraph._sensitivity.beside_scores import Interactions, MeasuredSet
from qgraph._sensitivity.report import Sensitivity

_STORED = np.dtype("<f4")
MOST_NODES = 2048
"""Nodes up to which reports hold interactions: their size goes by the square of that number."""

NO_WEIGHT = 1e-150
"""Stands for a weight of 0 where damage is divided by it, so that the largest is finite."""


def packed(matrix: Array) -> str:
    """Return the upper triangle of a symmetric matrix, row by row, as text."""
    return base64.b64encode(matrix[np.triu_indices(len(matrix))].astype(_STORED).tobytes()).decode()


class Gram:
    """The interactions by one metric."""

    def __init__(self, found: Interactions) -> None:
        count = len(found.nodes)
        try:
            values = np.frombuffer(base64.b64decode(found.values, validate=True), _STORED)
        except (binascii.Error, ValueError) as error:
            raise _damaged(str(error)) from error
        if len(values) != count * (count + 1) // 2 or not np.isfinite(values).all():
            raise _damaged(f"{len(values)} numbers for {count} nodes, or not finite ones")
        self._index = {name: at for at, name in enumerate(found.nodes)}
        upper = np.zeros((count, count))
        upper[np.triu_indices(count)] = values
        self._matrix = upper + np.triu(upper, 1).T
        self._corrected = self._fitted(found.measured)

    @property
    def tells_pairs_apart(self) -> bool:
        """Return whether anything is known of single pairs, and not only of sets."""
        return bool(np.count_nonzero(self._matrix) > np.count_nonzero(self._matrix.diagonal()))

    def damage(self, nodes: Collection[str]) -> float:
        """Return the damage of these nodes, quantized together; never below 0."""
        at = [self._index[name] for name in nodes]
        return max(0.0, float(self._corrected[np.ix_(at, at)].sum()))

    def between(self, units: Sequence[Collection[str]]) -> Array:
        """Return the damage that units do together, [units, units]."""
        return self._summed(self._corrected, units)

    def _summed(self, matrix: Array, units: Sequence[Collection[str]]) -> Array:
        belongs = np.zeros((len(units), len(self._index)))
        for row, members in zip(belongs, units, strict=True):
            row[[self._index[name] for name in members]] = 1
        found: Array = belongs @ matrix @ belongs.T
        return found

    def _fitted(self, measured: Sequence[MeasuredSet]) -> Array:
        """Return the matrix whose sums over the sets that were measured are what was measured."""
        matrix = self._matrix.copy()
        size = np.sqrt(np.maximum(matrix.diagonal(), 0))
        before = np.zeros(len(matrix), bool)
        for item in measured:
            if not set(item.adds) <= self._index.keys():
                raise _damaged("a set that was measured names other nodes")
            inside = before.copy()
            inside[[self._index[name] for name in item.adds]] = True
            pairs = np.outer(size * inside, size * inside)
            pairs[np.ix_(before, before)] = 0
            np.fill_diagonal(pairs, 0)
            if pairs.any():
                missing = item.damage - matrix[np.ix_(inside, inside)].sum()
                matrix += missing / pairs.sum() * pairs
            before = inside
        return matrix

    def order(self, units: Sequence[Collection[str]], weights: Sequence[float]) -> list[int]:
        """Return the units in the order in which each adds least damage, to those before it, for
        what it weighs; by the estimates alone, so that sets can be measured along it.
        """
        pairs = self._summed(self._matrix, units)
        added = pairs.diagonal().copy()
        worth = np.maximum(np.asarray(weights, float), NO_WEIGHT)
        left = np.ones(len(units), bool)
        found = []
        for _ in units:
            best = int(np.argmin(np.where(left, added / worth, math.inf)))
            found.append(best)
            left[best] = False
            added += 2 * pairs[best]
        return found


def gram_of(report: Sensitivity, metric: str) -> Gram | None:
    """Return the interactions of the nodes of `report` by `metric`, None where it has none.

    Raises:
        InputError: they are damaged.
    """
    names = {node.name for node in report.nodes}
    for found in report.interactions:
        if found.metric == metric and names <= set(found.nodes):
            return Gram(found)
    return None


def _damaged(what: str) -> InputError:
    return InputError(
        f"the interactions in the sensitivity report are damaged: {what}",
        hint="Run qgraph sensitivity again.",
    )

"""The products of gradients and errors, and what any set of quantized nodes does by them.

p_i[t] = ⟨g_i[t], δ_i[t]⟩ stands in row i, a column for each position and round. To first order the
errors of a set S add up at the outputs, so its damage is the squared length of the sum of its rows,
and the Gram matrix of the rows holds it for every set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qgraph._graph.tensors import Array


class Products:
    """The products of one sample and one kind of probe; rows in the order of `nodes`.

    `found`: node → its products in every round, all of one shape.
    """

    def __init__(self, nodes: Sequence[str], found: Mapping[str, Sequence[Array]]) -> None:
        self._index = {name: index for index, name in enumerate(nodes)}
        rounds = len(found[nodes[0]]) if nodes else 1
        grid = _coarsest([found[name][0].shape for name in nodes])
        rows = [[_pooled(a, grid).ravel() for a in found[name]] for name in nodes]
        sizes = list(dict.fromkeys(len(row[0]) for row in rows))
        # rows of unlike positions share no columns: their errors are taken not to correlate
        starts = dict(zip(sizes, np.cumsum([0, *sizes]), strict=False))
        width = sum(sizes)
        self._rows = np.zeros((len(nodes), rounds * width), np.float64)
        for into, row in zip(self._rows, rows, strict=True):
            for number, part in enumerate(row):
                start = number * width + starts[len(part)]
                into[start : start + len(part)] = part
        self._rows /= math.sqrt(rounds)
        self._total = self._rows.sum(0)

    def damage(self, chosen: Collection[str]) -> float:
        """Return Σ over positions of (Σ over the nodes `chosen`)², the mean over rounds."""
        inside = sorted(self._index[name] for name in chosen if name in self._index)
        if 2 * len(inside) <= len(self._index):
            moved = self._rows[inside].sum(0)
        else:
            rest = np.delete(np.arange(len(self._rows)), inside)
            moved = self._total - self._rows[rest].sum(0)
        return float(moved @ moved)

    def gram(self) -> Array:
        """Return the products of all pairs of rows, [nodes, nodes]."""
        found: Array = self._rows @ self._rows.T
        return found


def _coarsest(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the smallest grid [batch, height, width …] among the positions of convolutions."""
    grids = [shape for shape in shapes if len(shape) > 2]
    return min(grids, key=math.prod, default=())


def _pooled(array: Array, grid: tuple[int, ...]) -> Array:
    """Return the sums over the cells of `grid`, where positions lie evenly in them."""
    shape = array.shape
    if len(shape) != len(grid) or any(n % cells for n, cells in zip(shape, grid, strict=True)):
        return array
    split = [k for n, cells in zip(shape, grid, strict=True) for k in (cells, n // cells)]
    summed: Array = array.reshape(split).sum(tuple(range(1, 2 * len(grid), 2)))
    return summed

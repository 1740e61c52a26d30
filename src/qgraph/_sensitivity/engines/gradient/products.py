"""The products of gradients and errors, and what any set of quantized nodes does by them.

p_i[t] = ⟨g_i[t], δ_i[t]⟩ stands in row i, a column for each token, or cell of a picture, and round.
To first order the errors of a set S add up at the outputs, so its damage is the squared length of
the sum of its rows, and the Gram matrix of the rows holds it for every set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._metrics import Sums
from qgraph._sensitivity.engines.gradient.probes import Kind
from qgraph._sensitivity.scoring.questions import AllBut, Question

_BATCH_AND_TOKENS = 2
_AT_PLACE, _AT_OUTPUT = math.sqrt(0.75), math.sqrt(0.25)
"""Of a node that has products at a place and at its own output, what either counts: the first has
less chance, the second all of what positions do together. Squares come to one."""
_MOST_CELLS = 3
"""Of a picture along each side. Errors of neighbouring pixels correlate: squared pixel by pixel,
damage comes out too small, and maps of unlike sizes would have no positions in common."""


class Products:
    """The products of one sample and one kind of probe; rows in the order of `nodes`.

    `found`: node → its products in every round, all of one shape; `own`: the same at the node's own
    output, where `found` are those of another place.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        found: Mapping[str, Sequence[Array]],
        own: Mapping[str, Sequence[Array]] = MappingProxyType({}),
    ) -> None:
        self._index = {name: index for index, name in enumerate(nodes)}
        rounds = len(found[nodes[0]]) if nodes else 1
        cells = _cells([found[name][0].shape for name in nodes])
        kept = [(name, "", found[name], _AT_PLACE if name in own else 1.0) for name in nodes]
        kept += [(name, "own", arrays, _AT_OUTPUT) for name, arrays in own.items()]
        blocks = [
            (self._index[name], where, number, share * _pooled(array, cells).ravel())
            for name, where, arrays, share in kept
            for number, array in enumerate(arrays)
        ]
        sizes = dict.fromkeys((where, len(values)) for _, where, _, values in blocks)
        # rows of unlike positions share no columns: their errors are taken not to correlate
        starts = dict(zip(sizes, np.cumsum([0, *(size for _, size in sizes)]), strict=False))
        width = sum(size for _, size in sizes)
        self.rows = np.zeros((len(nodes), rounds * width), np.float64)
        for row, where, number, values in blocks:
            start = number * width + starts[where, len(values)]
            self.rows[row, start : start + len(values)] = values
        self.rows /= math.sqrt(rounds)
        self._within: frozenset[str] | None = None

    def damage(self, chosen: Collection[str]) -> float:
        """Return Σ over positions of (Σ over the nodes `chosen`)², the mean over rounds."""
        rest = self._left_out(chosen)
        if rest is None:
            moved = self.rows[self._places(chosen)].sum(0)
        else:
            moved = self._total - self.rows[rest].sum(0)
        return float(moved @ moved)

    def _left_out(self, chosen: Collection[str]) -> Sequence[int] | Array | None:
        """Return the rows that are not `chosen`, to take from the sum of all; None where there are
        more of these, or the sum is no number.
        """
        if not np.isfinite(self._total).all():
            return None
        if isinstance(chosen, AllBut) and self._is_within(chosen.everything):
            return self._places(chosen.left_out)
        inside = self._places(chosen)
        few = 2 * len(inside) <= len(self._index)
        return None if few else np.delete(np.arange(len(self.rows)), inside)

    def _places(self, names: Collection[str]) -> list[int]:
        return sorted(self._index[name] for name in names if name in self._index)

    def _is_within(self, everything: frozenset[str]) -> bool:
        """Return whether `everything` has all rows; of many questions it is the same."""
        if self._within is not everything:
            self._within = everything if self._index.keys() <= everything else None
        return self._within is not None

    def through(self, matrix: Array) -> Products:
        """Return the products with each row multiplied by a matrix [columns, columns]."""
        made = copy.copy(self)
        made.rows = self.rows @ matrix if self._index else self.rows
        made.__dict__.pop("_total", None)
        return made

    @cached_property
    def _total(self) -> Array:
        total: Array = self.rows.sum(0)
        return total


def gram_of(rows: Array) -> Array:
    """Return the products of all pairs of rows, [nodes, nodes]."""
    found: Array = rows @ rows.T
    return found


def noise_in(rows: Array) -> Array:
    """Return the variance of `gram_of` where the errors of two nodes do not correlate: that of a
    sum of terms of mean 0, one for each position and round.
    """
    squares = rows**2
    found: Array = squares @ squares.T
    return found


def _cells(shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the cells a side that all pictures among the positions can be divided into."""
    sides = [size for shape in shapes if len(shape) > _BATCH_AND_TOKENS for size in shape[1:]]
    return min([_MOST_CELLS, *sides])


def _pooled(array: Array, cells: int) -> Array:
    """Return the sums over cells of a picture's positions [batch, height, width …]; others as they
    are.
    """
    if array.ndim <= _BATCH_AND_TOKENS:
        return array
    for axis in range(1, array.ndim):
        starts = np.arange(cells) * array.shape[axis] // cells
        array = np.add.reduceat(array, starts, axis=axis)
    return array


def expected_sums(
    question: Question,
    products: Mapping[Kind, Products],
    measured: Mapping[str, Sums],
    equal: Sums,
) -> Sums:
    """Return the sums of a set of nodes; errors that were measured are added to those estimated.

    `equal`: the sums of the float outputs with themselves.
    """
    alone = sum((measured[name] for name in sorted(question & measured.keys())), Sums())
    error = products[Kind.ERROR].damage(question) + alone.error
    relative = alone.relative
    if Kind.RELATIVE in products:
        relative += products[Kind.RELATIVE].damage(question)
    elif equal.parts:
        relative = error / equal.signal
    divergence = products[Kind.KL].damage(question) / 2 if Kind.KL in products else 0.0
    if alone.failed or not math.isfinite(error + relative + divergence):
        return Sums(failed=1)
    return replace(
        equal,
        error=error,
        got=equal.signal + error,
        dot=equal.signal,
        kl=divergence + alone.kl,
        agree=0,
        relative=relative,
    )

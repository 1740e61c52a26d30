"""The sums of every question on every sample, in whatever order samples are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._metrics import Sums

_KINDS = tuple(type(value) for value in Sums().figures())
"""Counts are integers: below 2⁵³ they come back as they were."""


def packed(row: Sequence[Sums]) -> Array:
    """Return sums as numbers, [questions, figures]."""
    return np.array([item.figures() for item in row], np.float64)


class SumsTable(Mapping[int, Sequence[Sums]]):
    """Sample → the sums of every question, as numbers: with many samples, objects would fill
    memory. Samples are in their own order, not that in which they were done.
    """

    def __init__(self) -> None:
        self._packed: dict[int, Array] = {}

    def add(self, sample: int, row: Sequence[Sums]) -> None:
        """Take in a sample."""
        self.add_packed(sample, packed(row))

    def add_packed(self, sample: int, rows: Array) -> None:
        """Take in a sample as `packed` made it."""
        self._packed[sample] = rows

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._packed))

    def __contains__(self, sample: object) -> bool:
        return sample in self._packed

    def __getitem__(self, sample: int) -> Sequence[Sums]:
        """Return the sums of a sample."""
        return _unpacked(self._packed[sample])

    def totals(self) -> list[Sums]:
        """Return the sums of every question over all samples, added in the samples' order."""
        if not self._packed:
            return []
        first, *others = (self._packed[sample] for sample in self)
        total = first.copy()
        for rows in others:
            total += rows
        return _unpacked(total)


def _unpacked(rows: Array) -> list[Sums]:
    return [
        Sums(*(kind(value) for kind, value in zip(_KINDS, row, strict=True)))
        for row in rows.tolist()
    ]

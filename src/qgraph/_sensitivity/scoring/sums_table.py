"""The sums of every question on every sample, and what stands in where a question was not asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from typing import overload

import numpy as np

from qgraph._graph.run.distance import Sums
from qgraph._graph.tensors import Array

COLUMN = {field.name: index for index, field in enumerate(fields(Sums))}
"""Name of a sum → its place along the last axis of packed rows."""
_KINDS = tuple(type(value) for value in astuple(Sums()))
"""Counts are integers: below 2⁵³ they come back as they were."""
_SAME_FOR_ALL = ("count", "signal", "positions", "parts")
_ERRORS = ("error", "kl", "relative")


class Rows(Sequence[Sequence[Sums]]):
    """The sums of each sample, as numbers: with many samples, objects would fill memory."""

    def __init__(self, rows: Iterable[Sequence[Sums | None]] = ()) -> None:
        self._packed: list[Array] = []
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[Sums | None]) -> None:
        """Take in another sample; None for a question that was not asked about it."""
        self._packed.append(np.array([_MISSING if s is None else astuple(s) for s in row]))

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> Sequence[Sums]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Sums]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Sums] | Sequence[Sequence[Sums]]:
        """Return the sums of one sample, or of some; every question was asked about them."""
        if isinstance(index, slice):
            return [self[item] for item in range(len(self))[index]]
        return [
            Sums(*(kind(value) for kind, value in zip(_KINDS, row, strict=True)))
            for row in self._packed[index]
        ]

    def packed(self) -> Array:
        """Return all sums [samples, questions, sums], NaN where a question was not asked."""
        return np.stack(self._packed)

    def asked(self) -> Array:
        """Return [samples, questions]: whether a question was asked about a sample."""
        asked: Array = ~np.isnan(self.packed()[:, :, 0])
        return asked

    def asked_last(self) -> list[int]:
        """Return the questions that were asked about the latest sample."""
        found: list[int] = np.flatnonzero(~np.isnan(self._packed[-1][:, 0])).tolist()
        return found

    def filled(self, reference: int) -> Rows:
        """Return the rows with what `filled` puts where a question was not asked."""
        if not len(self) or self.asked().all():
            return self
        found = Rows()
        found._packed = list(filled(self.packed(), reference))
        return found


_MISSING = (np.nan,) * len(_KINDS)


def filled(sums: Array, reference: int) -> Array:
    """Return `sums` [samples, questions, sums] with an estimate where a question was not asked.

    A sample that is harder for question `reference`, which was asked about all, is taken to be
    harder for the others by the same factor (the ratio estimator of survey sampling). One on which
    the reference failed says nothing of the others: there they count as not measured at all.
    """
    found = sums.copy()
    missing = np.isnan(sums[:, :, 0])
    for question in np.flatnonzero(missing.any(0)):
        at, seen = missing[:, question], ~missing[:, question]
        found[at, question] = _estimated(sums[seen, question], sums[:, reference], seen)
        found[at & (sums[:, reference, COLUMN["failed"]] > 0), question] = 0.0
    return found


def _estimated(own: Array, reference: Array, seen: Array) -> Array:
    """Return [unseen samples, sums] of a question from its `own` on the samples it has seen."""
    rest = reference[~seen]
    found = np.zeros_like(rest)
    for name in _SAME_FOR_ALL:
        found[:, COLUMN[name]] = rest[:, COLUMN[name]]
    for name in _ERRORS:
        index = COLUMN[name]
        found[:, index] = own[:, index].mean() * _factors(reference[:, index], seen)
    count, agree = COLUMN["positions"], COLUMN["agree"]
    disagree = reference[:, count] - reference[:, agree]
    missed = (own[:, count] - own[:, agree]).mean() * _factors(disagree, seen)
    found[:, agree] = np.clip(np.rint(rest[:, count] - missed), 0, rest[:, count])
    error, signal, got = (COLUMN[name] for name in ("error", "signal", "got"))
    power = own[:, got].sum() / max(own[:, signal].sum(), np.finfo(float).tiny)
    found[:, got] = rest[:, signal] * power
    found[:, COLUMN["dot"]] = (found[:, signal] + found[:, got] - found[:, error]) / 2
    found[:, COLUMN["failed"]] = own[:, COLUMN["failed"]].max()
    return found


def _factors(reference: Array, seen: Array) -> Array:
    """Return how many times its mean on the samples seen `reference` is on each of the others."""
    mean = reference[seen].mean()
    rest = reference[~seen]
    return rest / mean if mean > 0 else np.ones_like(rest)

"""What samples show of tensors, in states of fixed size that join: so whoever runs which of them.

What is kept of a tensor are whole numbers and largest values, which depend neither on the order of
samples nor on how many states they were kept in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.rescaling import hadamard
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.histogram import Histogram
from qgraph._quantize.calibrate.observers import MinMax
from qgraph._quantize.calibrate.walk import values_of

Told = tuple[Any, ...]
"""A state as plain values."""


class Shows(StrEnum):
    """What is kept: of its values, of each channel, of how many are how large, of it rotated."""

    EXTREMES = "extremes"
    CHANNELS = "channels"
    HISTOGRAM = "histogram"
    ROTATED = "rotated"


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen of a tensor [..., channels, `spatial` axes], divided by `factors` where
    there are any; `block`: channels of the blocks that are rotated.
    """

    tensor: str
    kind: Shows
    spatial: int = 0
    factors: tuple[float, ...] = ()
    block: int = 1

    def divided(self, values: Array) -> Array:
        if not self.factors:
            return values
        found: Array = values / np.asarray(self.factors, np.float32).reshape(
            -1, *[1] * self.spatial
        )
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Glance:
    """Views of the samples of these numbers, all of them together."""

    views: Sequence[View]
    numbers: Sequence[int]


class State(Protocol):
    """What was seen of a tensor."""

    def observe(self, values: Array) -> None:
        """Take in one array: not empty, all finite."""

    def told(self) -> Told:
        """Return it as plain values."""

    def join(self, told: Told) -> None:
        """Take in what another saw."""


class Extremes(MinMax):
    """The smallest and the largest value; `largest`: magnitude, 0 where nothing was seen."""

    def __init__(self, _view: View) -> None:
        super().__init__()

    @property
    def largest(self) -> float:
        return max(0.0, -self.low, self.high)

    def told(self) -> Told:
        return self.low, self.high


class ChannelPeaks:
    """The largest magnitude of each channel, float32 [channels]; None where nothing was seen."""

    def __init__(self, view: View) -> None:
        self.peaks: Array | None = None
        self._spatial = view.spatial

    @property
    def largest(self) -> float:
        return 0.0 if self.peaks is None else float(self.peaks.max())

    def observe(self, values: Array) -> None:
        axis = values.ndim - 1 - self._spatial
        others = tuple(i for i in range(values.ndim) if i != axis)
        self._take(np.abs(values).max(axis=others).astype(np.float32))

    def told(self) -> Told:
        return () if self.peaks is None else (self.peaks.tobytes(),)

    def join(self, told: Told) -> None:
        if told:
            self._take(np.frombuffer(told[0], np.float32))

    def _take(self, found: Array) -> None:
        self.peaks = found if self.peaks is None else np.maximum(self.peaks, found)


class Counted:
    """A histogram of magnitudes."""

    def __init__(self, view: View) -> None:
        self._view, self.seen = view, Histogram()

    def observe(self, values: Array) -> None:
        self.seen.add(self._view.divided(values))

    def told(self) -> Told:
        seen = self.seen
        return (seen.low, seen.high, seen.zeros, seen.top, zlib.compress(seen.counts.tobytes(), 1))

    def join(self, told: Told) -> None:
        other = Histogram()
        other.low, other.high, other.zeros, other.top, counts = told
        other.counts = np.frombuffer(zlib.decompress(counts), np.int64).copy()
        self.seen.join(other)


class Rotated:
    """The largest magnitude of a tensor rotated in blocks."""

    def __init__(self, view: View) -> None:
        self._view, self._matrix, self.largest = view, hadamard(view.block), 0.0

    def observe(self, values: Array) -> None:
        rows = self._view.divided(values).astype(np.float32).reshape(-1, self._view.block)
        self.join((float(np.abs(rows @ self._matrix).max(initial=0.0)),))

    def told(self) -> Told:
        return (self.largest,)

    def join(self, told: Told) -> None:
        self.largest = max(self.largest, told[0])


_STATES: Mapping[Shows, Callable[[View], State]] = {
    Shows.EXTREMES: Extremes,
    Shows.CHANNELS: ChannelPeaks,
    Shows.HISTOGRAM: Counted,
    Shows.ROTATED: Rotated,
}
Look = Callable[[Sequence[Glance]], list[list[Any]]]
"""Returns for each glance the state of each view."""


def blank(glances: Sequence[Glance]) -> list[list[Any]]:
    """Return states that saw nothing, for each glance."""
    return [[_STATES[view.kind](view) for view in glance.views] for glance in glances]


def look_at(
    prepared: PreparedModel,
    feeds: Sequence[Feed],
    glances: Sequence[Glance],
    provider: Provider,
    progress: Progress = silent,
    memory: Memory | None = None,
    elsewhere: Look | None = None,
) -> list[list[Any]]:
    """Return for each glance the state of each view; each sample is run once, by other processes
    where `elsewhere` has them.

    Raises:
        InputError: NaN or infinity arises, or no sample is looked at.
    """
    if elsewhere is not None:
        return elsewhere(glances)
    found, tables = blank(glances), dict[int, list[dict[str, list[State]]]]()
    for glance, states in zip(glances, found, strict=True):
        table: dict[str, list[State]] = {}
        for view, state in zip(glance.views, states, strict=True):
            table.setdefault(view.tensor, []).append(state)
        for number in glance.numbers:
            tables.setdefault(number, []).append(table)
    numbers = sorted(tables)
    shown = feeds if len(numbers) == len(feeds) else [feeds[number] for number in numbers]
    tensors = list(dict.fromkeys(view.tensor for glance in glances for view in glance.views))
    for index, name, values in values_of(prepared, tensors, shown, provider, progress, memory):
        for table in tables[numbers[index]]:
            for state in table.get(name, ()):
                state.observe(values)
    return found

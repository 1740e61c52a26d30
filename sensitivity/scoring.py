"""Asking an engine about sample after sample: any time there is an answer, and it gets better.

After the first sample every question has one. A time budget ends the work between samples, a
journal keeps each finished sample, so that what was killed goes on from there. Who asks to stop is
heeded where an engine can take up its work again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from typing import overload

import numpy as np

from graph.progress import Progress, silent
from graph.runtime.distance import Distances, Sums
from graph.stopping import StopRequest, requests_held
from graph.tensors import Array, Feed
from sensitivity.engine import Question, ScoringEngine
from sensitivity.journal import Journal


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """`deadline`: when to stop, on `time.monotonic`'s clock; `journal`: where samples are kept."""

    deadline: float | None = None
    journal: Journal | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`samples`: for each sample scored, the sums of every question. `complete`: whether all were.
    `resumed`: how many came from the journal.
    """

    samples: Sequence[Sequence[Sums]]
    complete: bool
    resumed: int

    def distances(self) -> list[Distances | None]:
        """Return the figures of every question over all samples, None where one has none."""
        totals: list[Sums] = []
        for row in self.samples:
            totals = [a + b for a, b in zip(totals, row, strict=True)] if totals else list(row)
        return [_figures(item) for item in totals]

    def of_sample(self, index: int) -> list[Distances | None]:
        """Return the figures of every question over one sample."""
        return [_figures(item) for item in self.samples[index]]


def _figures(sums: Sums) -> Distances | None:
    return None if sums.failed else sums.result()


class _Rows(Sequence[Sequence[Sums]]):
    """The sums of each sample, as numbers: with many samples, objects would fill memory."""

    def __init__(self, rows: Iterable[Sequence[Sums]]) -> None:
        self._packed: list[Array] = []
        for row in rows:
            self.append(row)

    def append(self, row: Sequence[Sums]) -> None:
        """Take in another sample."""
        self._packed.append(np.array([astuple(item) for item in row], np.float64))

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> Sequence[Sums]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Sums]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Sums] | Sequence[Sequence[Sums]]:
        """Return the sums of one sample, or of some."""
        if isinstance(index, slice):
            return [self[item] for item in range(len(self))[index]]
        return [
            Sums(*(kind(value) for kind, value in zip(_KINDS, row, strict=True)))
            for row in self._packed[index]
        ]


_KINDS = tuple(type(value) for value in astuple(Sums()))
"""Counts are integers: below 2⁵³ they come back as they were."""


class _OutOfTimeError(Exception):
    """The deadline passed within a sample."""


def score(
    engine: ScoringEngine,
    questions: Sequence[Question],
    feeds: Sequence[Feed],
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Scores:
    """Return the sums for every question and sample, as many samples as the deadline allows.

    Samples go to the engine as many at once as it takes; with a deadline one by one, since what is
    under way when it passes is lost.
    """
    limits = limits or Limits()
    done = _Rows(_from_journal(limits, len(feeds)))
    resumed = len(done)
    # without a journal nothing would be gained by going on to where the work can be taken up again
    with requests_held() if limits.journal else nullcontext(StopRequest()) as stop:
        while len(done) < len(feeds) and not _is_late(limits):
            at_once = 1 if limits.deadline is not None else engine.samples_at_once(questions)
            chunk = feeds[len(done) : len(done) + at_once]
            work = _Work(limits, stop, progress, len(done), len(chunk), len(feeds))
            try:
                found = engine.sums(questions, chunk, work.step)
            except _OutOfTimeError:
                break
            for sums in found:
                if limits.journal is not None:
                    limits.journal.record(_key(len(done)), [astuple(item) for item in sums])
                done.append(sums)
            stop.heed()
    progress("scoring", _UNITS * len(done), _UNITS * len(feeds))
    return Scores(done, len(done) == len(feeds), resumed)


_UNITS = 100
"""Steps that the progress of one sample is shown in."""


def _from_journal(limits: Limits, count: int) -> Iterator[Sequence[Sums]]:
    """Yield what was scored before, up to the first sample that was not."""
    entries = limits.journal.entries if limits.journal else {}
    for key in itertools.takewhile(entries.__contains__, map(_key, range(count))):
        yield [Sums(*row) for row in entries[key]]


@dataclass(frozen=True, slots=True)
class _Work:
    """Some samples under way: `size` of `count` ones, from `index` on."""

    limits: Limits
    stop: StopRequest
    progress: Progress
    index: int
    size: int
    count: int

    def step(self, share: float) -> None:
        """Say how far the work is, and stop it if it is time to.

        Raises:
            KeyboardInterrupt: someone asked to.
        """
        if _is_late(self.limits):
            raise _OutOfTimeError
        self.stop.heed()
        self.progress(
            "scoring", int(_UNITS * (self.index + share * self.size)), _UNITS * self.count
        )


def _is_late(limits: Limits) -> bool:
    return limits.deadline is not None and time.monotonic() >= limits.deadline


def _key(index: int) -> str:
    return f"sample {index}"

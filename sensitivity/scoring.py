"""Asking an engine about sample after sample: any time there is an answer, and it gets better.

After the first sample every question has one. A time budget ends the work between samples, a
journal keeps each finished sample, so that what was killed goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import reduce
from typing import Any

from graph.progress import Progress, silent
from graph.runtime.distance import Distances, Sums
from graph.tensors import Feed
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
        return [_figures(reduce(Sums.__add__, row)) for row in zip(*self.samples, strict=True)]

    def of_sample(self, index: int) -> list[Distances | None]:
        """Return the figures of every question over one sample."""
        return [_figures(item) for item in self.samples[index]]


def _figures(sums: Sums) -> Distances | None:
    return None if sums.failed else sums.result()


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
    done = _from_journal(limits, len(feeds))
    resumed = len(done)
    while len(done) < len(feeds) and not _is_late(limits):
        at_once = 1 if limits.deadline is not None else engine.samples_at_once(questions)
        chunk = feeds[len(done) : len(done) + at_once]
        try:
            found = _ask(engine, questions, chunk, limits, progress, len(done), len(feeds))
        except _OutOfTimeError:
            break
        for sums in found:
            if limits.journal is not None:
                limits.journal.record(_key(len(done)), [astuple(item) for item in sums])
            done.append(sums)
    progress("scoring", _UNITS * len(done), _UNITS * len(feeds))
    return Scores(done, len(done) == len(feeds), resumed)


_UNITS = 100
"""Steps that the progress of one sample is shown in."""


def _from_journal(limits: Limits, count: int) -> list[Sequence[Sums]]:
    """Return what was scored before, up to the first sample that was not."""
    entries = limits.journal.entries if limits.journal else {}
    rows = [entries.get(_key(index)) for index in range(count)]
    missing = rows.index(None) if None in rows else count
    return [_from_json(row) for row in rows[:missing]]


def _ask(
    engine: ScoringEngine,
    questions: Sequence[Question],
    chunk: Sequence[Feed],
    limits: Limits,
    progress: Progress,
    index: int,
    count: int,
) -> list[list[Sums]]:
    def step(share: float) -> None:
        if _is_late(limits):
            raise _OutOfTimeError
        progress("scoring", int(_UNITS * (index + share * len(chunk))), _UNITS * count)

    return engine.sums(questions, chunk, step)


def _is_late(limits: Limits) -> bool:
    return limits.deadline is not None and time.monotonic() >= limits.deadline


def _key(index: int) -> str:
    return f"sample {index}"


def _from_json(rows: Any) -> list[Sums]:
    return [Sums(*row) for row in rows]

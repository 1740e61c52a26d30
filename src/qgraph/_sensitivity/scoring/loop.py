"""Asking an engine about sample after sample: any time there is an answer, and it gets better.

After the first sample every question has one. A time budget ends the work between samples, a
journal keeps each finished sample, so that what was killed goes on from there. Who asks to stop is
heeded where an engine can take up its work again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass

from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.distance import Distances, Sums
from qgraph._graph.stopping import StopRequest, requests_held
from qgraph._graph.tensors import Feed
from qgraph._sensitivity.engines.questions import Question, ScoringEngine
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.settling import Settling
from qgraph._sensitivity.scoring.sums_table import Rows


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """`deadline`: when to stop, on `time.monotonic`'s clock; `journal`: where samples are kept;
    `settling`: says which questions further samples can decide, where not all are asked about all.
    """

    deadline: float | None = None
    journal: Journal | None = None
    settling: Settling | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`samples`: for each sample scored, the sums of every question. `complete`: whether all were,
    or nothing was left to decide. `resumed`: how many came from the journal. `asked`: question →
    how many of the first samples it was asked about; on the others its sums are estimates. Empty:
    all of them.
    """

    samples: Sequence[Sequence[Sums]]
    complete: bool
    resumed: int
    asked: Sequence[int] = ()

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
    done = Rows(_from_journal(limits, len(feeds)))
    resumed, settling = len(done), limits.settling
    going_on = _open_after(done, settling, done.asked_last() if done else range(len(questions)))
    # without a journal nothing would be gained by going on to where the work can be taken up again
    with requests_held() if limits.journal else nullcontext(StopRequest()) as stop:
        while len(done) < len(feeds) and going_on and not _is_late(limits):
            asked = [questions[index] for index in going_on]
            at_once = 1 if limits.deadline is not None else engine.samples_at_once(asked)
            if settling is not None:
                at_once = min(at_once, settling.until_due(len(done)))
            chunk = feeds[len(done) : len(done) + at_once]
            work = _Work(limits, stop, progress, len(done), len(chunk), len(feeds))
            try:
                found = engine.sums(asked, chunk, work.step)
            except _OutOfTimeError:
                break
            for sums in found:
                row = dict(zip(going_on, sums, strict=True))
                _keep(limits, done, [row.get(index) for index in range(len(questions))])
            going_on = _open_after(done, settling, going_on)
            stop.heed()
    complete = len(done) == len(feeds) or not going_on
    progress("scoring", _UNITS * len(feeds if complete else done), _UNITS * len(feeds))
    if settling is None or not done:
        return Scores(done, complete, resumed)
    return Scores(done.filled(settling.reference), complete, resumed, done.asked().sum(0).tolist())


def _keep(limits: Limits, done: Rows, row: Sequence[Sums | None]) -> None:
    if limits.journal is not None:
        entry = [None if item is None else astuple(item) for item in row]
        limits.journal.record(_key(len(done)), entry)
    done.append(row)


def _open_after(done: Rows, settling: Settling | None, going_on: Sequence[int]) -> Sequence[int]:
    """Return the questions to ask about the next sample, none where nothing is left to decide.

    It depends on the samples done alone: a run that goes on decides as the first would have.
    """
    if settling is None or not settling.due(len(done)):
        return going_on
    left = settling.open(done.packed())
    return [] if left == {settling.reference} else sorted(left)


_UNITS = 100
"""Steps that the progress of one sample is shown in."""


def _from_journal(limits: Limits, count: int) -> Iterator[Sequence[Sums | None]]:
    """Yield what was scored before, up to the first sample that was not."""
    entries = limits.journal.entries if limits.journal else {}
    for key in itertools.takewhile(entries.__contains__, map(_key, range(count))):
        yield [None if row is None else Sums(*row) for row in entries[key]]


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

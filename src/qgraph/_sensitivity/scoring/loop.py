"""Asking about sample after sample: any time there is an answer, and it gets better.

After the first sample every question has one. A time budget ends the work between samples, a
journal keeps each finished sample, so that what was killed goes on from there, whoever did which
sample and in which order. Who asks to stop is heeded where the work can be taken up again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from qgraph._graph.progress import Progress, silent
from qgraph._graph.stopping import StopRequest
from qgraph._graph.tensors import Feed
from qgraph._metrics import Figures, Sums, figures
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.questions import Answerer, Question, Step
from qgraph._sensitivity.scoring.sums_table import SumsTable


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """`deadline`: when to stop, on `time.monotonic`'s clock; `journal`: where samples are kept;
    `stop`: whether someone asked to.
    """

    deadline: float | None = None
    journal: Journal | None = None
    stop: StopRequest = field(default_factory=StopRequest)

    @property
    def late(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


Asking = Callable[[Sequence[Question], Sequence[int], Step], Iterable[Sequence[Sums]]]
"""Returns the sums of every question for each sample of these numbers, one by one if it can: what
has come is kept, whatever ends the work.
"""


FOR_TIMING = 0.05
"""Of the time left, what timing the float model may take: one sample, or more."""


def scoring_ends(deadline: float | None, share: float) -> float | None:
    """Return when work ends that may take a share of the time left, on the deadline's clock."""
    now = time.monotonic()
    return None if deadline is None else now + share * (deadline - now)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """`table`: the sums of every question for each sample scored. `complete`: whether all were.
    `resumed`: how many came from the journal.
    """

    table: SumsTable
    complete: bool
    resumed: int

    def figures(self) -> list[Figures | None]:
        """Return the figures of every question over all samples, None where one has none."""
        return [_figures(item) for item in self.table.totals()]

    def by_sample(self) -> Iterator[list[Figures | None]]:
        """Yield the figures of every question over each sample alone."""
        for row in self.table.values():
            yield [_figures(item) for item in row]


def _figures(sums: Sums) -> Figures | None:
    return None if sums.failed else figures(sums)


class _OutOfTimeError(Exception):
    """The deadline passed within a sample."""


def score(
    engine: Answerer,
    questions: Sequence[Question],
    feeds: Sequence[Feed],
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Scores:
    """Return the sums for every question and sample, as many samples as the deadline allows.

    Samples go to the engine as many at once as it takes; with a deadline one by one, since what is
    under way when it passes is lost.
    """
    folds = [(range(len(feeds)), lambda: asking(engine, feeds))]
    return score_in_turn(folds, questions, limits or Limits(), progress)


def asking(engine: Answerer, feeds: Sequence[Feed]) -> tuple[Answerer, Asking]:
    """Return `engine`, and what asks it about `feeds`."""

    def ask(
        questions: Sequence[Question], numbers: Sequence[int], step: Step
    ) -> Iterable[Sequence[Sums]]:
        return engine.sums(questions, [feeds[number] for number in numbers], step)

    return engine, ask


def score_in_turn(
    folds: Sequence[tuple[Sequence[int], Callable[[], tuple[Answerer, Asking]]]],
    questions: Sequence[Question],
    limits: Limits,
    progress: Progress = silent,
) -> Scores:
    """Return the same of samples that several are asked about, one after the other. `folds`: the
    numbers of samples, and what opens the one that is asked about these, and asks it.
    """
    wanted = [number for numbers, _ in folds for number in numbers]
    done = _from_journal(limits, wanted)
    resumed = len(done)
    if 0 < resumed < len(wanted):  # where it goes on
        progress("scoring", _UNITS * resumed, _UNITS * len(wanted))
    # without a journal nothing would be gained by going on to where the work can be taken up again
    with limits.stop.held() if limits.journal else nullcontext():
        for numbers, opened in folds:
            if _waiting(done, numbers) and not limits.late:
                _score_fold(opened(), questions, numbers, done, (limits, progress, wanted))
    progress("scoring", _UNITS * len(done), _UNITS * len(wanted))
    return Scores(done, len(done) == len(wanted), resumed)


def _score_fold(
    opened: tuple[Answerer, Asking],
    questions: Sequence[Question],
    numbers: Sequence[int],
    done: SumsTable,
    within: tuple[Limits, Progress, Sequence[int]],
) -> None:
    """Add the samples of `numbers` to `done`."""
    (engine, ask), (limits, progress, wanted) = opened, within
    while (waiting := _waiting(done, numbers)) and not limits.late:
        at_once = 1 if limits.deadline is not None else engine.samples_at_once(questions)
        taken = waiting[:at_once]
        work = _Work(limits, progress, len(done), len(taken), len(wanted))
        try:
            for number, row in zip(taken, ask(questions, taken, work.step), strict=True):
                _keep(limits, done, number, row)
        except _OutOfTimeError:
            break
        limits.stop.heed()


def _waiting(done: SumsTable, numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if number not in done]


def _keep(limits: Limits, done: SumsTable, number: int, row: Sequence[Sums]) -> None:
    if limits.journal is not None:
        record_sums(limits.journal, number, row)
    done.add(number, row)


def record_sums(journal: Journal, number: int, row: Sequence[Sums]) -> None:
    """Keep the sums of every question about a sample, whoever computed them."""
    journal.record(_key(number), [item.figures() for item in row])


def is_recorded(journal: Journal, number: int) -> bool:
    """Return whether the sums about a sample are kept."""
    return _key(number) in journal.entries


_UNITS = 100
"""Steps that the progress of one sample is shown in."""


def _from_journal(limits: Limits, numbers: Sequence[int]) -> SumsTable:
    """Return what was scored before, whichever samples that were."""
    found = SumsTable()
    entries = limits.journal.entries if limits.journal else {}
    for number in numbers:
        if _key(number) in entries:
            found.add(number, [Sums(*row) for row in entries[_key(number)]])
    return found


@dataclass(frozen=True, slots=True)
class _Work:
    """Some samples under way: `size` of `count` ones, after `done` others."""

    limits: Limits
    progress: Progress
    done: int
    size: int
    count: int

    def step(self, share: float) -> None:
        """Say how far the work is, and stop it if it is time to.

        Raises:
            KeyboardInterrupt: someone asked to.
        """
        if self.limits.late:
            raise _OutOfTimeError
        self.limits.stop.heed()
        self.progress("scoring", int(_UNITS * (self.done + share * self.size)), _UNITS * self.count)


def _key(number: int) -> str:
    return f"sample {number}"

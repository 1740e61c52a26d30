"""Progress on stderr: a line for each step that is done, one live bar for what runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from qgraph._cli.console import ERR

_EVERY = 30.0
"""Seconds between lines about a step that goes on, where nobody looks at a terminal."""
_SHORT = 1.0
"""Seconds below which a finished step is not worth a line."""


@dataclass(slots=True)
class _Step:
    """A step that runs, and when it last was heard of. `begun`: units an earlier run had done."""

    started: float
    heard: float
    begun: int
    bar: TaskID


class Bars:
    """A callable that takes progress; `quiet` shows none. `clock`: seconds that only grow."""

    def __init__(
        self,
        *,
        quiet: bool,
        console: Console = ERR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock, self._quiet = console, clock, quiet
        self._live = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._steps: dict[str, _Step] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, description: str, done: int, total: int) -> None:
        """Take that `done` of `total` units of the work called `description` are done."""
        if self._quiet:
            return
        if done < total:
            self._goes_on(description, done, total)
        elif description in self._steps:
            self._ends(description)

    def _goes_on(self, description: str, done: int, total: int) -> None:
        now = self._clock()
        step = self._steps.get(description)
        if step is None:
            # not before: starting and stopping without a bar would print an empty line
            self._live.start()
            bar = self._live.add_task(escape(description), total=total)
            step = self._steps[description] = _Step(now, now, done, bar)
            if done:
                self._say(f"  {description} continues: {_share(done, total)} were done before")
        self._live.update(step.bar, completed=done, total=total)
        if not self._console.is_terminal and now - step.heard >= _EVERY:
            step.heard = now
            left, new = "", done - step.begun
            if new:
                left = f", about {_spoken((now - step.started) * (total - done) / new)} left"
            self._say(f"  {description}: {_share(done, total)}{left}")

    def _ends(self, description: str) -> None:
        step = self._steps.pop(description)
        self._live.remove_task(step.bar)
        taken = self._clock() - step.started
        if taken >= _SHORT:
            self._say(f"✓ {description} ({_spoken(taken)})")

    def _say(self, line: str) -> None:
        self._console.print(escape(line), soft_wrap=True)


def _share(done: int, total: int) -> str:
    """Return how much is done, in per cent: units are of use to a step alone."""
    return f"{100 * done // total} %"


def _spoken(seconds: float) -> str:
    """Return a duration as `12 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

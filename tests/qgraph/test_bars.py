"""What a person sees of work that goes on: a line for each step done, and one live bar."""

from __future__ import annotations

import io

from rich.console import Console

from qgraph._cli.bars import Bars


class Clock:
    """A clock that a test turns on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(*, terminal: bool = False, quiet: bool = False) -> tuple[Bars, Clock, io.StringIO]:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    return Bars(quiet=quiet, console=console, clock=clock), clock, stream


def test_a_step_that_is_done_is_one_line_with_its_time() -> None:
    bars, clock, stream = shown()
    with bars:
        bars("scoring", 0, 2)
        clock.now = 65.0
        bars("scoring", 2, 2)
        bars("scoring", 2, 2)
    assert stream.getvalue() == "✓ scoring (1 min 5 s)\n"


def test_a_step_that_is_over_at_once_is_not_worth_a_line() -> None:
    bars, _, stream = shown()
    with bars:
        bars("memory", 0, 1)
        bars("memory", 1, 1)
        bars("opening", 1, 1)
    assert stream.getvalue() == ""


def test_in_a_log_long_work_says_every_half_minute_how_far_it_is() -> None:
    bars, clock, stream = shown()
    with bars:
        bars("scoring", 0, 100)
        for done in range(1, 81):
            clock.now = float(done)
            bars("scoring", done, 100)
    assert stream.getvalue().splitlines() == [
        "  scoring: 30 %, about 1 min 10 s left",
        "  scoring: 60 %, about 40 s left",
    ]


def test_a_step_of_which_nothing_is_done_yet_has_no_time_left_to_tell() -> None:
    bars, clock, stream = shown()
    with bars:
        bars("scoring", 0, 800)
        clock.now = 31.0
        bars("scoring", 0, 800)
    assert stream.getvalue() == "  scoring: 0 %\n"


def test_a_step_that_an_earlier_run_began_says_where_it_goes_on() -> None:
    bars, clock, stream = shown()
    with bars:
        bars("scoring", 600, 1600)
        clock.now = 50.0
        bars("scoring", 1100, 1600)
    assert stream.getvalue().splitlines() == [
        "  scoring continues: 37 % were done before",
        "  scoring: 68 %, about 50 s left",
    ]


def test_the_same_work_again_is_another_line() -> None:
    bars, clock, stream = shown()
    with bars:
        for start in (0.0, 10.0):
            clock.now = start
            bars("calibrating", 0, 1)
            clock.now = start + 3600 * 2
            bars("calibrating", 1, 1)
    assert stream.getvalue().splitlines() == 2 * ["✓ calibrating (2 h 0 min)"]


def test_on_a_terminal_the_bar_goes_when_the_step_is_done() -> None:
    bars, clock, stream = shown(terminal=True)
    with bars:
        bars("[odd] name", 0, 2)
        clock.now = 2.0
        bars("[odd] name", 2, 2)
    lines = [line for line in stream.getvalue().splitlines() if "✓" in line]
    assert len(lines) == 1 and lines[0].endswith("✓ [odd] name (2 s)")


def test_quiet_shows_nothing() -> None:
    bars, clock, stream = shown(quiet=True, terminal=True)
    with bars:
        bars("scoring", 0, 2)
        clock.now = 99.0
        bars("scoring", 2, 2)
    assert stream.getvalue() == ""

"""A request to stop waits for the work to come to a place where it can."""

from __future__ import annotations

import signal

import pytest

from qgraph._graph import stopping
from qgraph._graph.stopping import StopRequest


def test_a_request_that_nothing_holds_back_is_obeyed_at_once() -> None:
    assert StopRequest().ask()


def test_work_goes_on_until_it_heeds_a_request() -> None:
    stop = StopRequest()
    with stop.held():
        stop.heed()
        assert not stop.ask()
        assert not stop.ask()  # from terminal and parent: one request
        with pytest.raises(KeyboardInterrupt):
            stop.heed()


def test_a_second_request_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_SAME", 1e-9)
    stop = StopRequest()
    with stop.held():
        stop.ask()
        assert stop.ask()


def test_what_was_held_back_is_held_back_no_longer_than_the_work_takes() -> None:
    stop = StopRequest()
    with stop.held():
        pass
    assert stop.ask()


def test_no_signal_handler_is_touched() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = StopRequest()
    with stop.held():
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before

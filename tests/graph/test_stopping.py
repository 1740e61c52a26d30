"""A request to stop waits for the work to come to a place where it can."""

from __future__ import annotations

import signal
import threading

import pytest

from qgraph._graph import stopping
from qgraph._graph.stopping import requests_held


def test_work_goes_on_until_it_heeds_a_request() -> None:
    with requests_held() as stop:
        stop.heed()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # from terminal and parent: one request
        with pytest.raises(KeyboardInterrupt):
            stop.heed()


def test_a_second_request_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_SAME", 1e-9)
    with requests_held():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with requests_held():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_holds_nothing_back() -> None:
    seen = []

    def work() -> None:
        with requests_held() as stop:
            stop.heed()
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_process_that_ignores_interruptions_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with requests_held() as stop:
            signal.raise_signal(signal.SIGINT)
            stop.heed()
    finally:
        signal.signal(signal.SIGINT, before)

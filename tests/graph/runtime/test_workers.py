"""Work side by side ends together, whatever happens to a part of it."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from qgraph._graph.run.session import Provider
from qgraph._graph.run.workers import Workers, results


def test_results_come_in_the_order_work_began() -> None:
    workers = Workers(Provider.CPU)
    begun = [workers.start(partial(pow, number, 2)) for number in range(20)]
    assert results(begun) == [number**2 for number in range(20)]


def test_a_failure_is_raised_when_nothing_is_under_way_any_more() -> None:
    workers = Workers(Provider.CPU)
    ended = threading.Event()

    def fail() -> None:
        raise ValueError("no")

    def last() -> None:
        ended.wait(0.2)
        ended.set()

    begun = [workers.start(fail), workers.start(last)]
    with pytest.raises(ValueError, match="no"):
        results(begun)
    assert begun[1].cancelled() or ended.is_set()


def test_work_in_turn_is_begun_as_it_is_asked_for_and_ends_with_who_asks() -> None:
    workers, began = Workers(Provider.CPU, 2), []

    def piece(number: int) -> int:
        began.append(number)
        return number**2

    pieces = workers.in_turn(partial(piece, number) for number in range(20))
    assert next(pieces) == 0
    assert len(began) <= workers.count + 1
    pieces.close()
    seen = len(began)
    assert list(workers.in_turn(partial(piece, number) for number in range(20))) == [
        number**2 for number in range(20)
    ]
    assert len(began) == seen + 20

"""Runs that do not depend on each other, side by side, each on cores of its own.

Two runs on one core each end sooner than one after the other on two: threads within a run wait for
each other at every operator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from qgraph._graph.run.cores import cores
from qgraph._graph.run.session import Provider

T = TypeVar("T")
_MOST = 8
"""Runs at once: each holds activations of its own, and has several cores where there are more."""


class Workers:
    """`count`: how many runs go on at once; `threads`: how many threads each of them may use.

    A GPU has work enough from one.
    """

    def __init__(self, provider: Provider, most: int = _MOST) -> None:
        count = cores()
        self.count = max(1, min(count, most, _MOST)) if provider is Provider.CPU else 1
        self.threads = max(1, count // self.count) if provider is Provider.CPU else 1
        self._pool = ThreadPoolExecutor(self.count, "qgraph-run")

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin a piece of work as soon as a worker is free."""
        return self._pool.submit(work)

    def in_turn(self, pieces: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Yield what pieces of work give, in their order: no more are begun than there are workers,
        and one that is next.
        """
        begun: deque[Future[T]] = deque()
        try:
            for piece in pieces:
                begun.append(self.start(piece))
                if len(begun) > self.count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            _end(begun)


def results(begun: Sequence[Future[T]]) -> list[T]:
    """Return what the pieces of work give, once none of them is under way, whatever happens."""
    try:
        return [item.result() for item in begun]
    finally:
        _end(begun)


def _end(begun: Iterable[Future[T]]) -> None:
    for item in begun:
        item.cancel()
    wait(begun)

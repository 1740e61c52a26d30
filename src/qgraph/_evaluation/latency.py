"""How long a run takes, variants in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qgraph._evaluation.results import Latency
from qgraph._graph.errors import EnvironmentFault, InputError, LimitError, QGraphError
from qgraph._graph.io.models import size_on_disk
from qgraph._graph.progress import Progress
from qgraph._graph.run.memory import available
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Feed

WARM_UP = 3
_PATIENCE = 60.0
"""Seconds of timing after which no further round begins: large models would take many minutes."""
_FEWEST = 5
"""Rounds that are run all the same, so that there are quartiles."""
_COPIES = 2.5
"""What an open session takes, in sizes of its file: the weights, repacked ones, and some air."""

Feeds = Mapping[str, Feed]
"""What is timed → its feed: `forward`, or `prefill` and `decode`."""
Bound = Mapping[str, Callable[[], None]]
"""What is timed → a run of it."""
FAULTS = (InputError, EnvironmentFault, LimitError)
"""What one variant may meet without keeping the figures of the others back."""


def time_variants(
    openers: Mapping[str, Callable[[], Session]],
    feeds: Feeds,
    runs: int,
    progress: Progress,
    *,
    interleaved: bool,
    patience: float = _PATIENCE,
) -> dict[str, dict[str, Latency] | QGraphError]:
    """Return variant → what was timed → its latency; of a variant that does not run, why.

    `runs`: of each, at most: none begins after `patience` seconds, where five are done.

    Interleaved, every round runs each variant once, in an order that shifts from round to round, so
    that a machine that slows down slows all of them. Else one variant after the other.
    """
    found: dict[str, dict[str, Latency] | QGraphError] = {}
    apart = [{name: opener} for name, opener in openers.items()]
    for together in [openers] if interleaved else apart:
        bound: dict[str, Bound] = {}
        for name, opener in together.items():
            try:
                bound[name] = _warmed_up(opener(), feeds)
            except FAULTS as error:  # the others are timed all the same
                found[name] = error.with_traceback(None)  # whose frames hold sessions
        found |= _rounds(bound, runs, progress, patience)
    return found


def _warmed_up(session: Session, feeds: Feeds) -> Bound:
    bound = {what: session.bind(feed) for what, feed in feeds.items()}
    for run in bound.values():
        for _ in range(WARM_UP):
            run()
    return bound


def _rounds(
    bound: Mapping[str, Bound], runs: int, progress: Progress, patience: float
) -> dict[str, dict[str, Latency]]:
    names = list(bound)
    times = {name: {what: list[float]() for what in bound[name]} for name in names}
    label = f"timing {names[0]}" if len(names) == 1 else "timing"
    start = time.monotonic()
    for index in range(runs):
        if index >= _FEWEST and time.monotonic() - start > patience:
            break
        progress(label, index, runs)
        turn = index % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            for what, run in bound[name].items():
                times[name][what].append(_timed(run))
    progress(label, runs, runs)
    return {
        name: {what: summarize(values) for what, values in of.items()} for name, of in times.items()
    }


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def summarize(milliseconds: Sequence[float]) -> Latency:
    """Return median, 90th percentile and the distance between the quartiles."""
    low, middle, high, p90 = np.percentile(milliseconds, [25, 50, 75, 90])
    return Latency(p50=float(middle), p90=float(p90), spread=float(high - low))


def fit_together(paths: Sequence[Path]) -> bool:
    """Return whether sessions of all these models can be open at once without filling memory."""
    return _COPIES * sum(map(size_on_disk, paths)) < available() / 2

"""How long a run takes, variants in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qgraph._evaluation.results import Latency
from qgraph._graph.io.models import size_on_disk
from qgraph._graph.progress import Progress
from qgraph._graph.run.memory import available
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Feed

WARM_UP = 3
_COPIES = 2.5
"""What an open session takes, in sizes of its file: the weights, repacked ones, and some air."""

Feeds = Mapping[str, Feed]
"""What is timed → its feed: `forward`, or `prefill` and `decode`."""


def time_variants(
    openers: Mapping[str, Callable[[], Session]],
    feeds: Feeds,
    runs: int,
    progress: Progress,
    *,
    interleaved: bool,
) -> dict[str, dict[str, Latency]]:
    """Return variant → what was timed → its latency.

    Interleaved, every round runs each variant once, in an order that shifts from round to round, so
    that a machine that slows down slows all of them. Else one variant after the other.
    """
    if not interleaved:
        return {
            name: time_variants({name: opener}, feeds, runs, progress, interleaved=True)[name]
            for name, opener in openers.items()
        }
    sessions = {name: opener() for name, opener in openers.items()}
    return {
        name: {what: found[what, name] for what in feeds}
        for found in [_rounds(sessions, feeds, runs, progress)]
        for name in sessions
    }


def _rounds(
    sessions: Mapping[str, Session], feeds: Feeds, runs: int, progress: Progress
) -> dict[tuple[str, str], Latency]:
    names = list(sessions)
    times: dict[tuple[str, str], list[float]] = {(w, n): [] for w in feeds for n in names}
    bound = {(w, n): sessions[n].bind(feed) for w, feed in feeds.items() for n in names}
    label = "timing" if len(names) > 1 else f"timing {names[0]}"
    for run in bound.values():
        for _ in range(WARM_UP):
            run()
    for index in range(runs):
        progress(label, index, runs)
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            for what in feeds:
                times[what, name].append(_timed(bound[what, name]))
    progress(label, runs, runs)
    return {key: summarize(values) for key, values in times.items()}


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

"""Metrics of a caller's own: functions of a sample and of what a variant gives for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgraph._exporters.batches import Batches
from qgraph._exporters.resampling import PerSample, Ratio, SampleSums
from qgraph._exporters.tasks import Labelled, Task
from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.npz import LABELS
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array
from qgraph._metrics import METRICS

OwnMetric = Callable[[dict[str, Array], dict[str, Array]], float]
"""Of a variant's outputs and the sample they are for, both by name, to a number.

Both are copies: what a metric writes into them, nothing else sees.
"""
_COUNT = "samples "  # no metric of a person's is called so
_NAME = re.compile(r"[a-z][a-z0-9_]*", re.IGNORECASE)


def own_metrics(given: Any) -> dict[str, OwnMetric]:
    """Return name → metric, of functions given alone or by name.

    Raises:
        UsageError: one is no function, has no name of its own, or that of a metric there is.
    """
    if given is None:
        return {}
    named = given if isinstance(given, Mapping) else {getattr(given, "__name__", ""): given}
    for name, function in named.items():
        if not callable(function):
            raise UsageError(
                f"found a metric of the type {type(function).__name__}, expected a function"
                " metric(outputs, sample) that returns a number"
            )
        if not _NAME.fullmatch(str(name)) or name in METRICS:
            taken = "is one of qgraph's" if name in METRICS else "cannot be written in a limit"
            raise UsageError(
                f"the metric's name {name!r} {taken}",
                hint='Give it another: metric={"my_score": function}.',
            )
    return dict(named)


def measure_own(
    metrics: Mapping[str, OwnMetric], task: Task, session: Session, name: str, progress: Progress
) -> SampleSums:
    """Return the metrics of a variant, feed by feed; each figure is the mean over samples, of which
    a batch holds several.

    Raises:
        UsageError: a metric fails, or returns no finite number.
    """
    found: dict[str, list[float]] = {key: [] for key in metrics}
    counts: list[int] = []
    for index in range(len(task.feeds)):
        progress(f"own metrics of {name}", index, len(task.feeds))
        outputs, sample, count = _seen(task, index, session)
        counts.append(count)
        for key, function in metrics.items():
            found[key].append(_asked(key, function, _copied(outputs), _copied(sample), index))
    progress(f"own metrics of {name}", len(task.feeds), len(task.feeds))
    weights = np.array(counts, np.float64)
    columns = {key: np.array(values, np.float64) * weights for key, values in found.items()}
    return SampleSums(columns | {_COUNT: weights}, {key: (key, _COUNT) for key in columns})


def _seen(
    task: Task, index: int, session: Session
) -> tuple[dict[str, Array], dict[str, Array], int]:
    """Return the outputs for a feed, the feed with its labels, and how many samples it holds.

    Rows that only fill a batch up are left out of both.
    """
    feed = task.feeds[index]
    outputs, sample, count = session.run(feed), dict(feed), 1
    if isinstance(task.feeds, Batches):
        count = len(task.feeds.items(index))
        outputs = task.feeds.without_filling(index, outputs)
        sample = task.feeds.without_filling(index, sample)
    labels = task.labels_of(index) if isinstance(task, Labelled) else None
    if labels is not None:
        sample[LABELS], count = labels, len(labels)
    return outputs, sample, count


def _copied(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays.items()}


def _asked(
    key: str, function: OwnMetric, outputs: dict[str, Array], sample: dict[str, Array], index: int
) -> float:
    try:
        value = float(function(outputs, sample))
    except Exception as error:
        raise UsageError(
            f"the metric {key!r} failed on sample {index}: {type(error).__name__}: {error}",
            hint=f"It was given the outputs {', '.join(outputs)} and, as the sample,"
            f" {', '.join(sample)}.",
        ) from error
    if not math.isfinite(value):
        raise UsageError(f"the metric {key!r} returned {value} for sample {index}")
    return value


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What a task keeps of each sample, and own metrics beside it."""

    task: PerSample
    own: SampleSums

    @property
    def count(self) -> int:
        return self.own.count

    def metrics(self, weights: Array) -> dict[str, Array]:
        return self.task.metrics(weights) | self.own.metrics(weights)

    def ratios(self) -> dict[str, Ratio]:
        return self.task.ratios() | self.own.ratios()

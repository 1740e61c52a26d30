"""The task over arrays: fidelity, and where `labels` lie among them, how often they are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from qgraph._exporters.class_scores import class_scores
from qgraph._exporters.family import ModelView
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.run.npz import LABELS, files_in, iterate_npz, read_array, rows_in
from qgraph._graph.run.spool import SpooledFeeds
from qgraph._graph.tensors import Array, Feed


def arrays_task(
    view: ModelView,
    name: str | None,
    data: Sequence[Path],
    limit: int,
    outputs: Sequence[str],
    complete: Callable[[Feed], Feed] = lambda feed: feed,
) -> FidelityTask:
    """Return the task over `.npz` data: `classify` with labels, unless fidelity was asked for,
    which leaves them to metrics of a caller's own.

    Raises:
        InputError: the data cannot be read, or some of it has labels and some has none.
        UsageError: classification was asked for, and there are no labels.
    """
    every = (complete(feed) for path in data for feed in iterate_npz(path, view.inputs))
    feeds = SpooledFeeds(islice(every, limit))
    if name == "fidelity":
        labels_of = _LabelRows(view, data, len(feeds), limit)
        scores = class_scores(view.model, outputs, None)
        return FidelityTask(feeds, outputs, scores, model=view.model, labels=labels_of)
    labels = _labels(view, data)
    if name == "classify" and labels is None:
        raise UsageError(
            f"--task classify needs the right classes, and the data has no array {LABELS!r}",
            hint=f"Save {LABELS}=classes, an integer for each sample, beside the inputs.",
        )
    return FidelityTask(feeds, outputs, class_scores(view.model, outputs, labels), model=view.model)


class _LabelRows:
    """The labels of each sample, of any type and shape, read where one is asked for."""

    def __init__(self, view: ModelView, data: Sequence[Path], used: int, limit: int) -> None:
        self._view, self._data, self._used, self._limit = view, data, used, limit

    def __call__(self, index: int) -> Array | None:
        """Return the labels of a sample, [1, …]; None: the data has none.

        Raises:
            InputError: the data cannot be read, or has not one for each sample.
        """
        return self._rows[index][None] if self._rows else None

    @cached_property
    def _rows(self) -> list[Array]:
        each = arrays_of_labels(self._view, self._data).values()
        rows = [row for array in each for row in np.atleast_1d(array)]
        if rows and len(rows) != (count := self._count()):
            raise InputError(
                f"found {len(rows)} labels, expected {count}, one for each sample",
                where=LABELS,
                hint="With a fixed batch, stack inputs and labels in front: [n, batch, …].",
            )
        return rows

    def _count(self) -> int:
        """Return how many samples there are, those beyond the limit, too."""
        if self._used < self._limit:
            return self._used
        return sum(1 for path in self._data for _ in iterate_npz(path, self._view.inputs))


def arrays_of_labels(view: ModelView, data: Sequence[Path]) -> dict[Path, Array]:
    """Return file → its labels; none where no file has any.

    Raises:
        InputError: some files have labels and some have none.
    """
    if any(spec.name == LABELS for spec in view.inputs):
        return {}
    files = [file for path in data for file in files_in(path)]
    found = {file: read_array(file, LABELS) for file in files}
    labels = {file: array for file, array in found.items() if array is not None}
    if labels and len(labels) < len(files):
        bare = next(file for file in files if file not in labels)
        raise InputError(f"has no array {LABELS!r}, and others have", where=str(bare))
    return labels


def _labels(view: ModelView, data: Sequence[Path]) -> Array | None:
    """Return the classes of all samples, int [n], or None where there are none."""
    found = arrays_of_labels(view, data)
    for file, labels in found.items():
        if labels.dtype.kind not in "iu":
            raise InputError(
                f"array {LABELS!r} is {labels.dtype} {list(labels.shape)}, expected integers, one"
                " for each sample",
                where=str(file),
                hint="Save the number of the class, from 0; of one-hot rows, argmax(axis=1). For"
                " a metric of your own: qgraph.evaluate(…, task='fidelity', metric=function).",
            )
    # of rows that make no whole batch the labels go, too, or those of the next file would be theirs
    of_rows = [(np.ravel(item), *rows_in(file, view.inputs)) for file, item in found.items()]
    kept = [item[:taken] if len(item) == taken + left else item for item, taken, left in of_rows]
    return np.concatenate(kept) if kept else None

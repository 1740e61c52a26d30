"""The task over arrays: fidelity, and where `labels` lie among them, how often they are met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from qgraph._exporters.class_scores import class_scores
from qgraph._exporters.family import ModelView
from qgraph._exporters.fidelity import FidelityTask
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.run.npz import LABELS, iterate_npz, read_array
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
    """Return the task over `.npz` data: `classify` with labels, unless fidelity was asked for.

    Raises:
        InputError: the data cannot be read, or some of it has labels and some has none.
        UsageError: classification was asked for, and there are no labels.
    """
    every = (complete(feed) for path in data for feed in iterate_npz(path, view.inputs))
    feeds = SpooledFeeds(islice(every, limit))
    labels = None if name == "fidelity" else _labels(view, data)
    if name == "classify" and labels is None:
        raise UsageError(
            f"--task classify needs the right classes, and the data has no array {LABELS!r}",
            hint=f"Save {LABELS}=classes, an integer for each sample, beside the inputs.",
        )
    return FidelityTask(feeds, outputs, class_scores(view.model, outputs, labels), model=view.model)


def _labels(view: ModelView, data: Sequence[Path]) -> Array | None:
    """Return the labels of all samples, int [n], or None where there are none."""
    if any(spec.name == LABELS for spec in view.inputs):
        return None
    files = [file for path in data for file in (sorted(path.glob("*.npz")) or [path])]
    found = {file: read_array(file, LABELS) for file in files}
    bare = [file for file, labels in found.items() if labels is None]
    if len(bare) == len(files):
        return None
    if bare:
        raise InputError(f"has no array {LABELS!r}, and others have", where=str(bare[0]))
    for file, labels in found.items():
        if labels is not None and labels.dtype.kind not in "iu":
            raise InputError(
                f"array {LABELS!r} is {labels.dtype} {list(labels.shape)}, expected integers, one"
                " for each sample",
                where=str(file),
                hint="Save the number of the class, from 0; of one-hot rows, argmax(axis=1).",
            )
    every: Array = np.concatenate([np.ravel(item) for item in found.values() if item is not None])
    return every

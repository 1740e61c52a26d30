"""Outputs that hold a score for each class: which they are, and how often the right one wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from qgraph._graph.edit.nodes import FLOATS
from qgraph._graph.errors import InputError
from qgraph._graph.index import GraphIndex
from qgraph._graph.tensors import Array

SEVERAL = 5
"""How many of the first classes count for `top5`."""
_SOFTMAX = ("Softmax", "LogSoftmax")
_KEEPS_VALUES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_LAST_BY_DEFAULT = 13
"""The opset from which a Softmax is over the last axis if nothing is said."""
_NAMES = re.compile(r"logit|prob|class|label|score", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """What is counted at `outputs`, [n, C] or without labels [n, …, C] each. `labels`: int [n of
    all samples], the right classes of the first of them, in the order of the samples; None where
    nobody knows them. `threshold`: of one output, [n, 1] or [n], that tells two classes apart: what
    is above is the second.
    """

    outputs: tuple[str, ...]
    labels: Array | None = None
    threshold: float | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the figures should know."""
        if self.threshold is None:
            return ()
        kind = "a logit" if self.threshold == 0 else "a probability"
        return (
            f"top-1 takes the output {self.outputs[0]!r} for {kind}, as its graph ends: class 1"
            f" above {self.threshold:g}, else class 0.",
        )

    def of(self, name: str, found: Mapping[str, Array]) -> Array:
        """Return the scores of an output, [n, …, C]."""
        if self.threshold is None:
            return found[name]
        above = found[name].reshape(-1, 1) - found[name].dtype.type(self.threshold)
        return np.concatenate([-above, above], 1)

    def count(
        self, start: int, reference: Mapping[str, Array], got: Mapping[str, Array]
    ) -> dict[str, float]:
        """Return `rows`, `agree`, and with labels `first` and `among` (the first five) of a sample
        whose rows begin at `start`.

        Raises:
            InputError: there are fewer labels, or one is no class.
        """
        pairs = [(self.of(name, reference), self.of(name, got)) for name in self.outputs]
        found = {
            "rows": float(sum(a[..., 0].size for a, _ in pairs)),
            "agree": float(sum(np.sum(a.argmax(-1) == b.argmax(-1)) for a, b in pairs)),
        }
        if self.labels is not None:
            scores = pairs[0][1]
            ranks = rank_of(scores, _labels_of(self.labels, start, scores))
            found |= {"first": float(np.sum(ranks == 0)), "among": float(np.sum(ranks < SEVERAL))}
        return found

    def ratios(self, classes: int) -> dict[str, tuple[str, str]]:
        """Return metric → numerator's and denominator's column, with `classes` to choose among."""
        found = {"top1": ("first", "rows")} if self.labels is not None else {}
        if self.labels is not None and classes > SEVERAL:
            found["top5"] = ("among", "rows")
        return found | {"top1_agreement": ("agree", "rows")}


def _labels_of(labels: Array, start: int, scores: Array) -> Array:
    found, classes = labels[start : start + len(scores)], scores.shape[1]
    if len(found) < len(scores):
        raise InputError(
            f"found {len(labels)} labels, expected one for each sample: there are more samples",
            where="labels",
            hint="Save a label beside each sample, in the same order.",
        )
    if found.min() < 0 or found.max() >= classes:
        wrong = found.min() if found.min() < 0 else found.max()
        raise InputError(
            f"found {wrong} among the labels, expected 0 to {classes - 1}: the model has"
            f" {classes} classes",
            where="labels",
            hint="Number the classes from 0, in the order of the model's scores.",
        )
    return found


def class_scores(
    model: onnx.ModelProto, outputs: Sequence[str], labels: Array | None
) -> ClassScores | None:
    """Return which of `outputs` hold class scores, a row for each item: those made by a Softmax or
    called logits, scores or the like; with labels, the only row there is will do, or, with labels 0
    and 1, the only number: a probability behind a Sigmoid, else a logit. Without labels
    also a row for each position of an item (a reader of text, a tagger), where a Softmax over
    classes makes it.

    Raises:
        InputError: there are labels, and no such output.
    """
    index = GraphIndex(model)
    rows = [name for name in outputs if _is_row(index.shape_of(name))]
    named = [name for name in rows if _NAMES.search(name) or index.comes_from(name, *_SOFTMAX)]
    if labels is None:
        named = [name for name in outputs if name in named or _is_softmax_of_rows(index, name)]
        return ClassScores(tuple(named)) if named else None
    found = named if len(named) == 1 else rows
    columns = [name for name in outputs if _is_column(index, name)]
    if not rows and len(columns) == 1 and set(np.unique(labels)) <= {0, 1}:
        return ClassScores(tuple(columns), labels, 0.5 if _is_sigmoid(index, columns[0]) else 0.0)
    if len(found) != 1:
        raise InputError(
            f"there are labels, and {len(found) or 'no'} outputs that could be class scores,"
            f" expected floats of shape [n, classes], or of [n, 1] with labels 0 and 1, among"
            f" {', '.join(outputs)}",
            where="labels",
            hint="Add --task fidelity, or leave the labels out. To use these labels, in Python:"
            " qgraph.evaluate(…, task='fidelity', metric=function).",
        )
    return ClassScores(tuple(found), labels)


def _is_softmax_of_rows(index: GraphIndex, name: str) -> bool:
    shape, node = index.shape_of(name), index.producer.get(name)
    if shape is None or len(shape) < 3 or node is None or not index.comes_from(name, *_SOFTMAX):
        return False
    known = {item.name: item.i for item in node.attribute}
    axis = known.get("axis", 1 if index.opset < _LAST_BY_DEFAULT else -1)
    return axis in (-1, len(shape) - 1) and (shape[-1] or 0) >= 2


def _is_row(shape: Sequence[int | None] | None) -> bool:
    return shape is not None and len(shape) == 2 and (shape[1] or 0) >= 2


def _is_column(index: GraphIndex, name: str) -> bool:
    """Return whether an output is one float for each sample: a decision made has no threshold."""
    shape = index.shape_of(name)
    if shape is None or index.types.get(name) not in FLOATS:
        return False
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _is_sigmoid(index: GraphIndex, name: str) -> bool:
    while (node := index.producer.get(name)) is not None and node.op_type in _KEEPS_VALUES:
        name = node.input[0]
    return index.comes_from(name, "Sigmoid", "HardSigmoid")


def rank_of(scores: Array, labels: Array) -> Array:
    """Return how many classes come before the right one, int [n]; scores [n, C], labels int [n].

    Of equal scores the lower class comes first, as with argmax.
    """
    right = np.take_along_axis(scores, labels[:, None], 1)
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    counted: Array = ((scores > right) | ((scores == right) & before)).sum(1)
    return counted

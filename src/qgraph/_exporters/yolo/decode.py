"""From a detector's output to boxes, by the shape of the output.

| shape            | layout                                                       | models        |
|------------------|--------------------------------------------------------------|---------------|
| [B, 4 + C, A]    | centre, width, height in pixels; probability of each class   | v8, v9, 11    |
| [B, A, 5 + C]    | the same, with the probability that there is anything        | v5, v7        |
| [B, A, 4 + C]    | as the first, the other way round                            |               |
| [B, N, 6]        | corners in pixels, score, class; nothing overlaps any more   | v10, 26       |

A: places looked at, C: classes. Boxes of one class that overlap are thinned by greedy
non-maximum suppression, as the models' own validation does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from qgraph._graph.errors import UsageError
from qgraph._graph.tensors import Array
from qgraph._metrics import Columns

LEAST_SCORE = 0.001
MOST_OVERLAP = 0.7
MOST_BOXES = 300
_MOST_CANDIDATES = 3000


class BoxLayout(StrEnum):
    """How an output holds its boxes."""

    CLASSES_FIRST = "classes first"
    WITH_OBJECTNESS = "with objectness"
    PLACES_FIRST = "places first"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """`corners`: float32 [n,4], left, top, right, bottom in pixels of the input; `scores`: float32
    [n], the highest first; `labels`: int64 [n].
    """

    corners: Array
    scores: Array
    labels: Array


def layout_of(shape: tuple[int, ...], classes: int) -> BoxLayout:
    """Return the layout of an output of this shape for a model of `classes` classes.

    Raises:
        UsageError: it is none of those known.
    """
    if len(shape) == 3:
        _, rows, columns = shape
        if rows == 4 + classes and columns != 6:
            return BoxLayout.CLASSES_FIRST
        if columns == 6 and (classes != 1 or rows <= MOST_BOXES):
            return BoxLayout.FINISHED
        if columns == 5 + classes:
            return BoxLayout.WITH_OBJECTNESS
        if columns == 4 + classes:
            return BoxLayout.PLACES_FIRST
    raise UsageError(
        f"an output of shape {list(shape)} holds no boxes of {classes} classes that qgraph can"
        " decode",
        hint="The data's classes must be the model's; or use --task fidelity.",
    )


def boxes_and_scores(shape: tuple[int, ...]) -> tuple[Columns, ...]:
    """Return the parts of an output that holds boxes and scores; none where it has another form."""
    if len(shape) != 3 or min(shape[1:]) <= 4:
        return ()
    axis = 1 if shape[1] < shape[2] else 2
    boxes, scores = Columns(axis, 0, 4), Columns(axis, 4)
    if (axis, shape[axis]) == (2, 6):  # of finished boxes: corners, score, class
        return boxes, Columns(axis, 4, 5), Columns(axis, 5)
    return boxes, scores


def decode_boxes(output: Array, layout: BoxLayout) -> Boxes:
    """Return the boxes of one picture; `output` is [rows, columns] of it.

    Boxes with a score below 0.001 are left out; at most 300 are returned.
    """
    rows = output.astype(np.float32)
    match layout:
        case BoxLayout.FINISHED:
            return _best(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64))
        case BoxLayout.CLASSES_FIRST:
            boxes, scores = rows[:4].T, rows[4:].T
        case BoxLayout.PLACES_FIRST:
            boxes, scores = rows[:, :4], rows[:, 4:]
        case BoxLayout.WITH_OBJECTNESS:
            boxes, scores = rows[:, :4], rows[:, 5:] * rows[:, 4:5]
    places, labels = np.nonzero(scores > LEAST_SCORE)
    found = _best(_corners(boxes[places]), scores[places, labels], labels, _MOST_CANDIDATES)
    kept = suppress(found, MOST_OVERLAP)[:MOST_BOXES]
    return Boxes(found.corners[kept], found.scores[kept], found.labels[kept])


def suppress(boxes: Boxes, most_overlap: float) -> Array:
    """Return the rows, int64 [m], that are left when each box removes those of its class that
    overlap it by an IoU above `most_overlap` and have a lower score.
    """
    # far apart for each class, so that boxes of two classes never overlap
    reach = float(np.abs(boxes.corners).max(initial=0)) * 2 + 1
    corners = boxes.corners.astype(np.float64) + boxes.labels[:, None] * reach
    area = (corners[:, 2:] - corners[:, :2]).clip(0).prod(1)
    left = np.arange(len(corners))
    kept: list[int] = []
    while left.size:
        best, others = int(left[0]), left[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[others, :2])
        high = np.minimum(corners[best, 2:], corners[others, 2:])
        shared = (high - low).clip(0).prod(1)
        union = area[best] + area[others] - shared
        left = others[shared <= most_overlap * np.maximum(union, 1e-12)]
    return np.array(kept, np.int64)


def _best(corners: Array, scores: Array, labels: Array, most: int = MOST_BOXES) -> Boxes:
    rows = np.flatnonzero(scores > LEAST_SCORE)
    order = rows[np.argsort(-scores[rows], kind="stable")][:most]
    return Boxes(corners[order], scores[order], labels[order])


def _corners(boxes: Array) -> Array:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], 1)

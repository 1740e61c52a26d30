"""Mean average precision of any resample of the pictures, from one matching by pycocotools.

Which detection matches which box of a picture does not depend on other pictures. So pycocotools
matches once; drawing pictures anew counts each picture's detections and boxes as often as it was
drawn, and accumulates again: precision over recall, read at 101 recalls (COCOeval's definition).

There is nothing here of how far the outputs lie from the float model's. One scene in which a box
leaps can make half of that, and from the others none can tell: of the tiny detector's MSE, 95 %
intervals from 40 scenes held in 40 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qgraph._exporters.resampling import Ratio
from qgraph._graph.tensors import Array

_AT_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """Detections of one class, the highest score first, up to the last right one.

    `picture`: int [D]; `right`, `wrong`: bool [T,D] at T overlaps; `boxes`: float64 [n], of each
    picture.
    """

    picture: Array
    right: Array
    wrong: Array
    boxes: Array


class ScenePrecision:
    """What a variant found, picture by picture."""

    def __init__(self, evaluated: Any, groups: Array) -> None:
        """Take COCOeval after `evaluate`; `groups` int [n]: the sample each picture belongs to."""
        self._overlaps = np.asarray(evaluated.params.iouThrs)
        self._recalls = np.asarray(evaluated.params.recThrs)
        self._classes = _classes(evaluated, groups)
        self.count = int(groups.max()) + 1

    def metrics(self, weights: Array) -> dict[str, Array]:
        """Return `map50` and `map` of R resamples; `weights` float64 [R, samples]."""
        each = np.stack([self._precisions(item, weights) for item in self._classes])
        # a class without a box in a resample has no precision and is left out of its mean
        there = ~np.isnan(each).any(2)
        total = np.where(there[..., None], each, 0).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / there.sum(0)[:, None]
        half = mean[:, int(np.argmin(np.abs(self._overlaps - _AT_HALF)))]
        return {"map50": half, "map": mean.mean(1)}

    def ratios(self) -> dict[str, Ratio]:
        return {}

    def _precisions(self, item: _Class, weights: Array) -> Array:
        """Return the average precision float64 [R,T]; NaN where no box was drawn."""
        boxes = weights @ item.boxes
        # of a part of the pictures, the others' detections count nowhere
        some = weights.any(0)[item.picture]
        drawn = weights[:, item.picture[some]]
        found = np.full((len(weights), len(self._overlaps)), np.nan)
        counted = item.right[:, some], item.wrong[:, some]
        for index, (right, wrong) in enumerate(zip(*counted, strict=True)):
            hits = np.cumsum(drawn * right, 1)[:, right]
            misses = np.cumsum(drawn * wrong, 1)[:, right]
            found[:, index] = self._averages(hits, misses, boxes)
        return found

    def _averages(self, hits: Array, misses: Array, boxes: Array) -> Array:
        """Return the mean precision [R] over recalls, from counts [R,D] at the detections that are
        right; NaN where `boxes` [R] is 0.
        """
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = hits / boxes[:, None]
        # a detection stands for the recalls that it is the first to reach
        reached = np.searchsorted(self._recalls, recall, side="right")
        first = np.diff(reached, axis=1, prepend=0)
        return np.where(boxes > 0, (best * first).sum(1) / len(self._recalls), np.nan)


def _classes(evaluated: Any, groups: Array) -> list[_Class]:
    """Return the classes that have boxes, over all sizes of box."""
    parameters = evaluated.params
    pictures, areas = len(parameters.imgIds), len(parameters.areaRng)
    classes = []
    for index in range(len(parameters.catIds)):
        start = index * areas * pictures
        rows = evaluated.evalImgs[start : start + pictures]
        boxes = np.zeros(int(groups.max()) + 1)
        for group, row in zip(groups, rows, strict=True):
            boxes[group] += 0 if row is None else np.sum(row["gtIgnore"] == 0)
        if boxes.any():
            classes.append(_class(rows, groups, boxes, len(parameters.iouThrs)))
    return classes


def _class(rows: list[Any], groups: Array, boxes: Array, overlaps: int) -> _Class:
    there = [(g, row) for g, row in zip(groups, rows, strict=True) if row is not None]
    scores = np.concatenate([np.zeros(0), *(np.asarray(row["dtScores"]) for _, row in there)])
    order = np.argsort(-scores, kind="mergesort")
    nothing = np.zeros((overlaps, 0), bool)
    matched = np.concatenate([nothing, *(row["dtMatches"] > 0 for _, row in there)], 1)
    counted = ~np.concatenate([nothing, *(row["dtIgnore"] > 0 for _, row in there)], 1)
    picture = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(row["dtScores"]), g) for g, row in there)]
    )
    right, wrong = (matched & counted)[:, order], (~matched & counted)[:, order]
    # precision is read where recall grows; what comes after the last right one changes nothing
    used = int(np.flatnonzero(right.any(0)).max(initial=-1)) + 1
    return _Class(picture[order][:used].astype(np.int64), right[:, :used], wrong[:, :used], boxes)

"""Mean average precision of any resample of the pictures, from one matching by pycocotools.

Which detection matches which box of a picture does not depend on other pictures. So pycocotools
matches once; drawing pictures anew counts each picture's detections and boxes as often as it was
drawn, and accumulates again: precision over recall, read at 101 recalls (COCOeval's definition).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporters.fidelity import FIDELITY_RATIOS, fidelity_figures
from exporters.resampling import Ratio, SampleSums
from graph.tensors import Array

_AT_HALF = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """Detections of one class, the highest score first. `picture`: int [D]; `right`, `wrong`: bool
    [T,D] at T overlaps; `boxes`: float64 [n], of each picture.
    """

    picture: Array
    right: Array
    wrong: Array
    boxes: Array


class ScenePrecision:
    """What a variant found, picture by picture; `sums`: columns of its output's distances."""

    def __init__(self, evaluated: Any, groups: Array, sums: Mapping[str, Array]) -> None:
        """Take COCOeval after `evaluate`; `groups` int [n]: the sample each picture belongs to."""
        self._overlaps = np.asarray(evaluated.params.iouThrs)
        self._recalls = np.asarray(evaluated.params.recThrs)
        self._classes = _classes(evaluated, groups)
        self._fidelity = SampleSums(sums, FIDELITY_RATIOS, fidelity_figures)
        self.count = self._fidelity.count

    def metrics(self, weights: Array) -> dict[str, Array]:
        """Return `map50`, `map` and distances of R resamples; `weights` float64 [R, samples]."""
        each = np.stack([self._precisions(item, weights) for item in self._classes])
        # a class without a box in a resample has no precision and is left out of its mean
        there = ~np.isnan(each).any(2)
        total = np.where(there[..., None], each, 0).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / there.sum(0)[:, None]
        half = mean[:, int(np.argmin(np.abs(self._overlaps - _AT_HALF)))]
        return {"map50": half, "map": mean.mean(1)} | self._fidelity.metrics(weights)

    def ratios(self) -> dict[str, Ratio]:
        """Return the metrics that are a sum over a sum; average precision is none."""
        return self._fidelity.ratios()

    def _precisions(self, item: _Class, weights: Array) -> Array:
        """Return the average precision float64 [R,T]; NaN where no box was drawn."""
        boxes = weights @ item.boxes
        drawn = weights[:, item.picture]
        found = np.full((len(weights), len(self._overlaps)), np.nan)
        for index, (right, wrong) in enumerate(zip(item.right, item.wrong, strict=True)):
            hits = np.cumsum(drawn * right, 1)[:, right]
            misses = np.cumsum(drawn * wrong, 1)[:, right]
            for row in np.flatnonzero(boxes > 0):
                found[row, index] = self._average(hits[row], misses[row], boxes[row])
        return found

    def _average(self, hits: Array, misses: Array, boxes: float) -> float:
        """Return the mean precision over recalls, from counts at the detections that are right."""
        if not hits.size:
            return 0.0
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / boxes, self._recalls, side="left")
        return float(best[places[places < best.size]].sum() / len(self._recalls))


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
    return _Class(picture[order].astype(np.int64), right, wrong, boxes)

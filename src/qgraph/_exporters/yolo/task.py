"""The task `detect`: mean average precision by pycocotools.

`map50`: at an IoU of 0.5; `map`: mean over IoUs from 0.5 to 0.95 (COCO's own figure); `mse`,
`sqnr_db`, `cosine` of the first output, all places and boxes of low score included.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from qgraph._exporters.fidelity import FIDELITY, as_metrics, distances_of, summed
from qgraph._exporters.tasks import Observation, SampleBySample
from qgraph._exporters.yolo.coco import Annotations
from qgraph._exporters.yolo.decode import Boxes, decode_boxes, layout_of
from qgraph._exporters.yolo.letterbox import SceneFeeds
from qgraph._exporters.yolo.precision import ScenePrecision
from qgraph._graph.errors import loading
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array
from qgraph._metrics import Comparator, figures


class DetectTask(SampleBySample[ScenePrecision]):
    """Keeps the float model's outputs; pictures are read anew for each variant."""

    name = "detect"
    divisible = True
    metrics = FIDELITY | {"map", "map50"}

    def __init__(self, feeds: SceneFeeds, output: str, annotations: Annotations) -> None:
        super().__init__()
        with loading("vision", "mean average precision"):
            import pycocotools.cocoeval  # noqa: F401 - before anything is measured
        self.feeds = feeds
        self._output = output
        self._annotations = annotations

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return the distances of some scenes, and what is found in them."""
        feed, places = self.feeds.letterboxed(index)
        rows = session.run(feed, [self._output])[self._output][: len(places)]
        if first:
            self._reference[index] = rows
        layout = layout_of(rows.shape, len(self._annotations.categories))
        found: list[dict[str, Any]] = []
        for scene, place, row in zip(self.feeds.items(index), places, rows, strict=True):
            boxes = decode_boxes(row, layout)
            found += self._detections(scene.id or 0, place.undone(boxes.corners), boxes)
        sums = Comparator(self._reference[index]).compare(rows)
        return {**distances_of(sums), "found": found}

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        found = [detection for row in seen for detection in row["found"]]
        samples = range(len(self.feeds))
        places = [(scene.id or 0, i) for i in samples for scene in self.feeds.items(i)]
        evaluated = evaluate(self._annotations, found, [number for number, _ in places])
        # which sample each picture belongs to, in the order of their ids
        groups = np.array([index for _, index in sorted(places)], np.int64)
        self._seen[name] = ScenePrecision(evaluated, groups)
        map50, mean = (float(evaluated.stats[item]) for item in (1, 0))
        return {"map50": map50, "map": mean} | as_metrics(figures(summed(seen)))

    def _detections(self, image: int, corners: Array, boxes: Boxes) -> list[dict[str, Any]]:
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        categories = self._annotations.categories
        return [
            {
                "image_id": image,
                "category_id": categories[label],
                "bbox": size.tolist(),
                "score": float(score),
            }
            for size, score, label in zip(sizes, boxes.scores, boxes.labels, strict=True)
            if 0 <= label < len(categories)
        ]


def evaluate(
    annotations: Annotations, detections: list[dict[str, Any]], images: Sequence[int]
) -> Any:
    """Return pycocotools' COCOeval over `images`, summarized."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # pycocotools prints as it goes
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _complete(annotations)
        truth.createIndex()
        evaluated = COCOeval(truth, _results(truth, detections), "bbox")
        evaluated.params.imgIds = sorted(images)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return evaluated


def _complete(annotations: Annotations) -> dict[str, Any]:
    """Return the JSON with what pycocotools insists on and other tools leave out."""
    content = dict(annotations.content)
    content["annotations"] = [
        {
            "area": item["bbox"][2] * item["bbox"][3],
            "iscrowd": 0,
            **item,
            # ids that are missing, or 0, which pycocotools takes for no match
            "id": number,
        }
        for number, item in enumerate(content["annotations"], start=1)
    ]
    return content


def _results(truth: Any, detections: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    if detections:
        return truth.loadRes(detections)
    # loadRes refuses an empty list
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty

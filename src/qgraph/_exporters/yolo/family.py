"""Detectors: pictures in, boxes and scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from qgraph._exporters.arrays import arrays_task
from qgraph._exporters.family import ExportOptions, ModelView
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.generic.family import GenericFamily
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.preprocessing import Preprocessing, Resize
from qgraph._exporters.tasks import Task
from qgraph._exporters.yolo.coco import Annotations, Scene, read_annotations, read_scenes
from qgraph._exporters.yolo.decode import boxes_and_scores
from qgraph._exporters.yolo.head import find_detector_head
from qgraph._exporters.yolo.letterbox import GREY, SceneFeeds, size_of_input
from qgraph._exporters.yolo.task import DetectTask
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.progress import Progress
from qgraph._graph.run.npz import is_npz
from qgraph._graph.tensors import Feed, specs_of
from qgraph._metrics import Split, whole

_TASKS = ("detect", "fidelity")
_TABLE = 3
"""Axes of an output that lists boxes with their scores: [batch, boxes, columns] or transposed."""
_CHECKPOINTS = (".pt", ".yaml", ".yml")


class YoloFamily(GenericFamily):
    """Recognized by the structure of its head, whoever exported it and whatever its names."""

    name = "yolo"
    fuses_siblings = False

    def recognizes(self, view: ModelView) -> bool:
        """Return whether one picture goes in and the graph ends in a detector's head."""
        if view.manifest is not None:
            return view.manifest.family == self.name
        if len(view.inputs) != 1 or len(view.inputs[0].shape) != 4:
            return False
        ranks = [len(value.type.tensor_type.shape.dim) for value in view.model.graph.output]
        return min(ranks) >= 3 and find_detector_head(view.model) is not None

    def feeds(self, view: ModelView, data: Path, limit: int | None) -> Sequence[Feed]:
        """Return feeds of the pictures of a COCO file or a folder, at most `limit` of either."""
        return SceneFeeds(view, read_scenes(data)[:limit])

    def files_named_in(self, data: Path) -> list[Path]:
        """Return the pictures that COCO's annotations are of."""
        if data.suffix.lower() != ".json":
            return []
        return [scene.path for scene in read_annotations(data).scenes]

    def preprocessing(self, view: ModelView) -> Preprocessing:
        """Return how pictures are letterboxed."""
        return Preprocessing(
            input=view.inputs[0].name,
            source="the letterbox that detectors of this line are trained with",
            resize=Resize.FIT,
            size=size_of_input(view),
            interpolation="bilinear",
            padding=GREY,
            scale=1 / 255,
        )

    def parts(self, view: ModelView) -> Split:
        """Return boxes and scores where they stand in one output: pixels beside probabilities."""
        ranks = [len(spec.shape) for spec in specs_of(view.model.graph.output)]
        return boxes_and_scores if ranks.count(_TABLE) == 1 else whole

    def keep(self, model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        """Keep the head's output convolutions and DFL."""
        head = find_detector_head(model)
        if head is not None and node.name in head.convolutions:
            return (
                "an output convolution of the head; its rounding goes straight into boxes, scores"
            )
        if head is not None and node.name in head.distributions:
            return "the mean of the distribution over distances (DFL), a part of the box decoding"
        return None

    def task(self, view: ModelView, name: str | None, data: Sequence[Path], limit: int) -> Task:
        """Return detection, or fidelity where asked or where data has no annotations."""
        if name not in (None, *_TASKS):
            raise UsageError(f"--task {name} is none of this family's: {', '.join(_TASKS)}")
        annotated = [path for path in data if path.suffix == ".json"]
        if name == "detect" or (name is None and annotated):
            return _detection(view, data, limit)
        if any(map(is_npz, data)):
            return arrays_task(view, "fidelity", data, limit, self.scored_outputs(view))
        scenes: list[Scene] = [item for path in data for item in read_scenes(path)[:limit]]
        return FidelityTask(SceneFeeds(view, scenes), self.scored_outputs(view), model=view.model)

    def exports(self, source: Path) -> bool:
        """Return whether it is a checkpoint or a description of Ultralytics."""
        return source.suffix.lower() in _CHECKPOINTS

    def export(
        self, source: Path, folder: Path, options: ExportOptions, progress: Progress
    ) -> Manifest:
        # Ultralytics is an extra of an environment of its own
        from qgraph._exporters.yolo.export import export_detector

        return export_detector(source, folder, options, progress)


def _detection(view: ModelView, data: Sequence[Path], limit: int) -> DetectTask:
    if len(data) != 1:
        raise UsageError(
            f"found {len(data)} data sets, expected one: ids of two COCO files may be the same",
            hint="Give one --data, in COCO's form.",
        )
    if data[0].suffix != ".json":
        raise InputError(
            "pictures without annotations cannot be detected right or wrong",
            where=str(data[0]),
            hint="Give annotations in COCO's .json, or use --task fidelity.",
        )
    annotations: Annotations = read_annotations(data[0])
    scenes = annotations.scenes[:limit]
    if not scenes:
        raise InputError("the annotations hold no picture", where=str(data[0]))
    shown = {scene.id for scene in scenes}
    each = annotations.content["annotations"]
    if not any(item["image_id"] in shown and not item.get("iscrowd") for item in each):
        raise InputError(
            f"none of {len(scenes)} pictures holds a box, and a precision is of boxes",
            where=str(data[0]),
            hint="Use more pictures with --samples, or --task fidelity.",
        )
    feeds = SceneFeeds(view, scenes)
    return DetectTask(feeds, view.outputs[0], replace(annotations, scenes=scenes))

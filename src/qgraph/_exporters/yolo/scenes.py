"""Pictures as feeds of a detector, letterboxed."""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._exporters.batches import Batches
from qgraph._exporters.family import ModelView
from qgraph._exporters.images import read_image
from qgraph._exporters.yolo.coco import Scene
from qgraph._exporters.yolo.letterbox import Letterboxed, letterbox
from qgraph._graph.tensors import Array, Feed

_SIDE = 640
"""Of the input, where the model takes any."""


def size_of_input(view: ModelView) -> tuple[int, int]:
    """Return the height and width that pictures are framed to."""
    height, width = (
        size if isinstance(size, int) and size > 0 else _SIDE for size in view.inputs[0].shape[2:]
    )
    return height, width


class SceneFeeds(Batches[Scene]):
    """Pictures scaled and framed to the model's input."""

    def __init__(self, view: ModelView, scenes: Sequence[Scene]) -> None:
        super().__init__(view.inputs[0], scenes)
        self._size = size_of_input(view)

    def row(self, item: Scene) -> Array:
        """Return the letterboxed picture, float32 [3,H,W]."""
        return self._letterbox(item).pixels

    def letterboxed(self, index: int) -> tuple[Feed, list[Letterboxed]]:
        """Return one feed, and where each of its pictures lies in it."""
        made = [self._letterbox(scene) for scene in self.items(index)]
        return self.filled([item.pixels for item in made]), made

    def _letterbox(self, scene: Scene) -> Letterboxed:
        return letterbox(read_image(scene.path), *self._size)

"""Pictures as a detector wants them: scaled to fit, grey around, values 0 to 1; as feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qgraph._exporters.batches import Batches
from qgraph._exporters.family import ModelView
from qgraph._exporters.images import as_array, read_image
from qgraph._exporters.yolo.coco import Scene
from qgraph._graph.tensors import Array, Feed

if TYPE_CHECKING:
    from PIL import Image

GREY = 114
"""What the models of this line are trained with around their pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Letterboxed:
    """`pixels`: float32 [3,H,W], 0 to 1. A point (x, y) of the picture lies at
    (x·scale + left, y·scale + top).
    """

    pixels: Array
    scale: float
    left: int
    top: int

    def undone(self, boxes: Array) -> Array:
        """Return corner boxes [n,4] of the input in pixels of the picture."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        moved: Array = (boxes - offset) / self.scale
        return moved


def letterbox(image: Image.Image, height: int, width: int) -> Letterboxed:
    """Return `image` (RGB) scaled to fit `height` × `width`, in the middle of it."""
    # Pillow is loaded already, as there is an image
    from PIL import Image as Pillow

    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Pillow.Resampling.BILINEAR)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    framed = np.full((height, width, 3), GREY, np.uint8)
    framed[top : top + size[1], left : left + size[0]] = as_array(image)
    pixels = framed.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return Letterboxed(pixels, scale, left, top)


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
        return self._letterbox(item).pixels

    def letterboxed(self, index: int) -> tuple[Feed, list[Letterboxed]]:
        """Return one feed, and where each of its pictures lies in it."""
        made = [self._letterbox(scene) for scene in self.items(index)]
        return self.filled([item.pixels for item in made]), made

    def _letterbox(self, scene: Scene) -> Letterboxed:
        return letterbox(read_image(scene.path), *self._size)

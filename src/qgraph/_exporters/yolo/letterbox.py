"""Pictures as a detector wants them: scaled to fit, grey around, values 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qgraph._exporters.images import as_array
from qgraph._graph.tensors import Array

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

"""Pictures as feeds of a detector, letterboxed when they are asked for, not held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from exporters.family import ModelView
from exporters.images import read_image
from exporters.yolo.coco import Scene
from exporters.yolo.letterbox import Letterboxed, letterbox
from graph.tensors import Feed

_SIDE = 640
"""Of the input, where the model takes any."""


class SceneFeeds(Sequence[Feed]):
    """One feed per batch of the model's own size; the last is filled up with its last picture."""

    def __init__(self, view: ModelView, scenes: Sequence[Scene]) -> None:
        spec = view.inputs[0]
        rows, height, width = (
            size if isinstance(size, int) and size > 0 else other
            for size, other in zip((spec.shape[0], *spec.shape[2:]), (1, _SIDE, _SIDE), strict=True)
        )
        self._spec = spec
        self._batch, self._size = rows, (height, width)
        self._scenes = scenes

    def __len__(self) -> int:
        return (len(self._scenes) + self._batch - 1) // self._batch

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feed]: ...
    def __getitem__(self, index: int | slice) -> Feed | list[Feed]:
        """Return the feed `{input: float [batch,3,H,W]}`."""
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        return self.letterboxed(index)[0]

    def __iter__(self) -> Iterator[Feed]:
        return (self[index] for index in range(len(self)))

    def scenes(self, index: int) -> Sequence[Scene]:
        """Return the pictures of one feed, those that fill it up left out."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = index % len(self) * self._batch
        return self._scenes[start : start + self._batch]

    def letterboxed(self, index: int) -> tuple[Feed, list[Letterboxed]]:
        """Return one feed, and where each of its pictures lies in it."""
        made = [letterbox(read_image(scene.path), *self._size) for scene in self.scenes(index)]
        rows = [item.pixels for item in made]
        rows += rows[-1:] * (self._batch - len(rows))
        return {self._spec.name: np.stack(rows).astype(self._spec.dtype)}, made

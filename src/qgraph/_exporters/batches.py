"""Pictures as feeds, read when they are asked for, not held in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Generic, TypeVar

import numpy as np

from qgraph._graph.tensors import Array, Feed, LazyFeeds, TensorSpec

Item = TypeVar("Item")
"""What is known of one picture."""


class Batches(LazyFeeds, Generic[Item]):
    """One feed `{input: float [batch,3,H,W]}` per batch of the model's own size, 1 where it takes
    any; the last is filled up with its own pictures, from the first on.
    """

    def __init__(self, spec: TensorSpec, items: Sequence[Item]) -> None:
        rows = spec.shape[0]
        self._spec = spec
        self._batch = rows if isinstance(rows, int) and rows > 0 else 1
        self._items = items

    @abstractmethod
    def row(self, item: Item) -> Array:
        """Return what the model gets of one picture, float [3,H,W]."""

    def __len__(self) -> int:
        return (len(self._items) + self._batch - 1) // self._batch

    def make(self, index: int) -> Feed:
        return self.filled([self.row(item) for item in self.items(index)])

    def items(self, index: int) -> Sequence[Item]:
        """Return the pictures of one feed, those that fill it up left out."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = index % len(self) * self._batch
        return self._items[start : start + self._batch]

    def whole(self, limit: int) -> Iterator[Feed]:
        """Yield the feeds that nothing fills up, in which all pictures count alike, of the first
        `limit` pictures (one by one, of all); where these are too few for one, the feed that they
        fill up.
        """
        count = len(self._items) if self._batch == 1 else min(len(self._items), limit)
        if 0 < count < self._batch:
            yield self.filled([self.row(item) for item in self._items[:count]])
        yield from map(self.__getitem__, range(count // self._batch))

    def note(self, limit: int) -> str:
        """Return what `whole` does to the first `limit` pictures, as a sentence; "" if nothing."""
        count, batch = min(len(self._items), limit), self._batch
        if 0 < count < batch:
            return (
                f"{count} pictures are fewer than the model's batch of {batch}, so some count more"
                f" than once. Give at least {batch}."
            )
        more = f"{count % batch} of {count} pictures make no whole batch of {batch}"
        return f"{more} and were left out." if count % batch else ""

    def filled(self, rows: Sequence[Array]) -> Feed:
        """Return the feed of these rows, filled up with them, from the first on."""
        stacked = np.stack(list(islice(cycle(rows), self._batch)))
        return {self._spec.name: stacked.astype(self._spec.dtype)}

    def without_filling(self, index: int, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return a feed, or what a model made of it, without the rows that fill it up."""
        rows = len(self.items(index))
        return {
            name: array[:rows] if array.shape[:1] == (self._batch,) else array
            for name, array in arrays.items()
        }

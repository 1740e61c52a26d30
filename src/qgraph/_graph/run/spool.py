"""Samples that need not fit into memory: the first few are held, the rest wait in a file.

The file has no name and goes with the process. Every pass over the samples reads them again, one at
a time, so that memory does not grow with their number, and no picture is decoded twice.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.tensors import Array, Feed, LazyFeeds

_IN_MEMORY = 4 << 20
"""Bytes of samples that are held: reading less than that again and again saves nothing."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies in the file; `size` in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    size: int


class SpooledFeeds(LazyFeeds):
    """Samples taken one by one from `feeds`, in memory up to `in_memory` bytes.

    Raises:
        EnvironmentFault: there is no room for them in the folder for temporary files.
    """

    def __init__(self, feeds: Iterable[Feed], in_memory: int = _IN_MEMORY) -> None:
        self._left = in_memory
        self._end = 0
        self._samples: list[Feed | dict[str, _Place]] = []
        for feed in feeds:
            self._samples.append(self._take_in(feed))

    def __len__(self) -> int:
        return len(self._samples)

    def make(self, index: int) -> Feed:
        return {
            name: self._read(found) if isinstance(found, _Place) else found
            for name, found in self._samples[index].items()
        }

    @cached_property
    def _file(self) -> IO[bytes]:
        made = tempfile.TemporaryFile(prefix="qgraph-")  # noqa: SIM115 - closed with this object
        weakref.finalize(self, made.close)
        return made

    def _take_in(self, feed: Feed) -> Feed | dict[str, _Place]:
        size = sum(array.nbytes for array in feed.values())
        if size <= self._left:
            self._left -= size
            return feed
        try:
            return {name: self._write(array) for name, array in feed.items()}
        except OSError as error:
            raise EnvironmentFault(
                f"cannot write the samples to a temporary file: {error}",
                where=tempfile.gettempdir(),
                hint="Free some space there, or set TMPDIR to a folder that has it.",
            ) from error

    def _write(self, array: Array) -> _Place:
        place = _Place(array.dtype, array.shape, self._end, array.nbytes)
        # numpy's tofile would not say why a disk takes no more
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._file.flush()
        self._end += array.nbytes
        return place

    def _read(self, place: _Place) -> Array:
        self._file.seek(place.offset)
        data = np.fromfile(self._file, np.uint8, place.size)
        if data.size < place.size:
            raise EnvironmentFault("the temporary file of the samples was cut short")
        return data.view(place.dtype).reshape(place.shape)

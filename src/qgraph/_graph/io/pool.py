"""A data file that is being filled with the tensors of several models, each content once.

What is put here is read back through the tensor that says where it lies (`_graph.io.weights`), so
that a large tensor need not be in memory from the moment it is made to the moment it is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from onnx import TensorProto

from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.weights import (
    EXTERNAL_TENSOR,
    PAGE,
    bytes_of,
    content_of,
    is_on_disk,
    load,
    location_of,
    parts_of,
    place,
    raw,
    size_of,
)
from qgraph._graph.tensors import Array

_LINE = 64
"""Alignment of what is smaller than a page, and not worth mapping."""


class Pool(AbstractContextManager["Pool"]):
    """Filled at `path`, a file that nobody else writes; close it, or leave its `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._offsets: dict[bytes, int] = {}
        self._moved: dict[bytes, tuple[int, int]] = {}
        self._digest = hashlib.sha256()

    def __exit__(self, *_fault: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Return a digest of all that was put here, in order."""
        return self._digest.hexdigest()

    def hold(self, name: str, values: Array) -> TensorProto:
        """Return `values` as an initializer called `name`; all but small ones lie here."""
        if values.nbytes < EXTERNAL_TENSOR:
            return tensor_from(name, values)
        # an empty one of the type, for its number
        data_type = tensor_from(name, np.empty(0, values.dtype)).data_type
        tensor = TensorProto(name=name, data_type=data_type, dims=values.shape)
        place(tensor, self.path, *self._put(lambda: [raw(values)]))
        return tensor

    def take(self, tensor: TensorProto) -> None:
        """Move the values of an initializer here, in place; small ones go into it."""
        if self.holds(tensor):
            return
        if is_on_disk(tensor):
            self._take_from_disk(tensor)
        elif len(held := bytes_of(tensor)) >= EXTERNAL_TENSOR:
            place(tensor, self.path, *self._put(lambda: [held]))

    def holds(self, tensor: TensorProto) -> bool:
        """Return whether the values of `tensor` lie here."""
        return is_on_disk(tensor) and location_of(tensor) == self.path

    def _take_from_disk(self, tensor: TensorProto) -> None:
        """Move values from another file; those that came from there before are not read again."""
        if size_of(tensor) < EXTERNAL_TENSOR:
            load(tensor)
            return
        key = content_of(tensor)
        if key not in self._moved:
            self._moved[key] = self._put(lambda: parts_of(tensor))
        place(tensor, self.path, *self._moved[key])

    def _put(self, parts: Callable[[], Iterable[memoryview]]) -> tuple[int, int]:
        """Return offset and length of what `parts` are together, written if it is new."""
        digest, length = hashlib.sha256(), 0
        for part in parts():
            digest.update(part)
            length += len(part)
        key = digest.digest()
        if key not in self._offsets:
            self._offsets[key] = self._write(parts(), PAGE if length >= PAGE else _LINE)
            self._digest.update(key)
        return self._offsets[key], length

    def _write(self, parts: Iterable[memoryview], alignment: int) -> int:
        self._file.write(b"\0" * (-self._file.tell() % alignment))
        offset = self._file.tell()
        for part in parts:
            self._file.write(part)
        self._file.flush()  # whoever maps it finds it there
        return offset

"""Where variants under way wait for their next segment: in memory, and on the disk beyond a limit.

A walk visits its variants in the same order at every segment. What came first stays in memory and
the rest goes to the disk: with such an order, keeping the latest instead would write everything.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.run.device_tensors import Value

Tensors = dict[str, Value]


class Shelf:
    """Holds the tensors of each key; several threads may use it, each with keys of its own.

    `limit` is in bytes, None for no limit; without a `folder` everything is held.
    """

    def __init__(self, limit: int | None, folder: Path | None) -> None:
        self._limit = limit
        self._folder = folder
        self._held: dict[Hashable, Tensors] = {}
        self._files: dict[Hashable, Path] = {}
        self._bytes = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.spilled = 0

    def look(self, key: Hashable) -> Tensors:
        """Return the tensors of `key`, which stay; none if it has none."""
        if key in self._files:
            return dict(load_file(self._files[key]))
        return self._held.get(key, {})

    def take(self, key: Hashable) -> Tensors:
        """Return the tensors of `key` and forget them; none if it has none."""
        with self._lock:
            file = self._files.pop(key, None)
            tensors = self._held.pop(key, {})
            self._bytes -= _bytes(tensors)
        if file is None:
            return tensors
        tensors = dict(load_file(file))
        file.unlink()
        return tensors

    def put(self, key: Hashable, tensors: Tensors) -> None:
        """Keep the tensors of `key`.

        Raises:
            EnvironmentFault: they do not fit into memory and the disk is full.
        """
        size = _bytes(tensors)
        with self._lock:
            fits = self._limit is None or self._bytes + size <= self._limit
            if self._folder is None or fits:
                self._held[key] = tensors
                self._bytes += size
                return
        self._write(key, tensors, self._folder)

    def shrink(self, limit: int | None) -> None:
        """Set another limit; what is beyond it goes to the disk, what came last first."""
        self._limit = limit
        while self._folder is not None and limit is not None and self._bytes > limit:
            key, tensors = self._held.popitem()
            self._bytes -= _bytes(tensors)
            self._write(key, tensors, self._folder)

    def _write(self, key: Hashable, tensors: Tensors, folder: Path) -> None:
        file = folder / f"{next(self._numbers)}.safetensors"
        save_tensors(tensors, file)
        with self._lock:
            self._files[key] = file
            self.spilled += _bytes(tensors)


def save_tensors(tensors: Tensors, file: Path) -> None:
    """Write tensors to `file`.

    Raises:
        EnvironmentFault: the disk is full or fails.
    """
    try:
        save_file({name: np.asarray(a, order="C") for name, a in tensors.items()}, file)
    except Exception as error:  # safetensors raises its own type, without the system's error number
        raise EnvironmentFault(
            f"cannot write states of the computation: {error}",
            where=str(file.parent),
            hint="Free some space, or give --memory-budget more.",
        ) from error


def _bytes(tensors: Tensors) -> int:
    return sum(array.nbytes for array in tensors.values())

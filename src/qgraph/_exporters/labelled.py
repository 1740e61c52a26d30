"""Tasks that know what is right."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from qgraph._graph.tensors import Array


@runtime_checkable
class Labelled(Protocol):
    """A task whose samples may have labels."""

    def labels_of(self, index: int) -> Array | None:
        """Return the right classes of a sample already measured, int [n]; None: nobody knows."""
        ...

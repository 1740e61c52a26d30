"""Linear maps along one axis, as matrices: out = M·in, whose gradient is Mᵀ·g."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from qgraph._graph.gradient.tape import Tape
from qgraph._graph.tensors import Array


def through_map(gradient: str, moved: Array, axis: int, rank: int, like: str, tape: Tape) -> str:
    """Return Mᵀ·g along `axis` of a gradient of `rank` axes; `moved`: M [out, in]."""
    if axis == rank - 1:
        return tape.op("MatMul", gradient, tape.matrix(moved, like))
    if axis == rank - 2:
        return tape.op("MatMul", tape.matrix(moved.T, like), gradient)
    order = [at for at in range(rank) if at != axis] + [axis]
    last = tape.op("Transpose", gradient, perm=order)
    mapped = tape.op("MatMul", last, tape.matrix(moved, like))
    return tape.op("Transpose", mapped, perm=np.argsort(order).tolist())


def pad_map(size: int, before: int, after: int, mode: str) -> Array:
    """Return the map of a Pad that repeats values: [before + size + after, size]."""
    kept = np.arange(max(0, -before), size - max(0, -after))
    border = (max(0, before), max(0, after))
    places = np.pad(kept, border, mode=cast("Any", mode))
    return np.eye(size, dtype=np.float32)[places]

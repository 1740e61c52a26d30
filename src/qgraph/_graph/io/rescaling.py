"""Weights that are rescaled and rotated when they are read: the file keeps its values.

Each step is an entry beside the place of the values, so that a copy of the graph carries it along:
the axis, whether factors divide or multiply, and the factors as float32; or the channels of a
rotation's block.
"""

from __future__ import annotations

import base64

import numpy as np
from onnx import StringStringEntryProto, TensorProto

from qgraph._graph.tensors import Array

_STEP = "qgraph.rescaled"
_ROTATES = "@"


def rescale(values: Array, axis: int, factors: Array, *, divides: bool) -> Array:
    """Return `values` scaled along `axis` by `factors` [channels], rounded once to their dtype."""
    shape = [1] * values.ndim
    shape[axis] = -1
    wide = factors.astype(np.float64).reshape(shape)
    scaled: Array = values / wide if divides else values * wide
    return scaled.astype(values.dtype)


def hadamard(size: int) -> Array:
    """Return the orthogonal matrix of ±1/√size that is its own inverse, float32 [size, size].

    `size` is a power of two (Sylvester's construction).
    """
    made = np.ones((1, 1))
    while len(made) < size:
        made = np.block([[made, made], [made, -made]])
    matrix: Array = (made / np.sqrt(size)).astype(np.float32)
    return matrix


def is_rotation(values: Array) -> bool:
    """Return whether a constant is one Hadamard matrix, with an axis of 1 before it."""
    one, *size = values.shape if values.ndim == 3 else (0,)
    if one != 1 or size[0] != size[1] or size[0] < 2 or size[0] & (size[0] - 1):
        return False
    return bool(np.array_equal(values[0], hadamard(size[0]).astype(values.dtype)))


def rotate(values: Array, axis: int, block: int) -> Array:
    """Return `values` with each `block` channels along `axis` multiplied by a Hadamard matrix."""
    last = np.moveaxis(values, axis, -1)
    blocks = last.astype(np.float32, copy=False).reshape(-1, block) @ hadamard(block)
    made: Array = np.moveaxis(blocks.reshape(last.shape), -1, axis)
    return np.ascontiguousarray(made.astype(values.dtype))


def rotate_on_reading(tensor: TensorProto, axis: int, block: int) -> None:
    """Note in a tensor on the disk that its values are to be rotated."""
    tensor.external_data.add(key=_STEP, value=f"{axis} {_ROTATES} {block}")


def rescale_on_reading(tensor: TensorProto, axis: int, factors: Array, *, divides: bool) -> None:
    """Note in a tensor on the disk that its values are to be rescaled."""
    text = base64.b64encode(factors.astype("<f4").tobytes()).decode("ascii")
    tensor.external_data.add(key=_STEP, value=f"{axis} {'/' if divides else '*'} {text}")


def rescaled(tensor: TensorProto, values: Array, rows: slice) -> Array:
    """Return `values`, these rows of what the file holds, with every step of `tensor` applied, in
    order. Of one that is rotated along its rows, they are all.
    """
    for entry in steps_of(tensor):
        axis, sign, text = entry.value.split(" ")
        if sign == _ROTATES:
            values = rotate(values, int(axis), int(text))
            continue
        factors = np.frombuffer(base64.b64decode(text), "<f4")
        own = factors[rows] if int(axis) == 0 else factors
        values = rescale(values, int(axis), own, divides=sign == "/")
    return values


def is_rescaled(tensor: TensorProto) -> bool:
    """Return whether a tensor on the disk is read with other values than the file holds."""
    return any(entry.key == _STEP for entry in tensor.external_data)


def mixes_rows(tensor: TensorProto) -> bool:
    """Return whether a tensor on the disk is rotated along its rows: none is made by itself."""
    return any(entry.value.startswith(f"0 {_ROTATES}") for entry in steps_of(tensor))


def steps_of(tensor: TensorProto) -> list[StringStringEntryProto]:
    """Return the steps of a tensor on the disk, for another to carry on."""
    return [entry for entry in tensor.external_data if entry.key == _STEP]

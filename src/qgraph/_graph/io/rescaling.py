"""Weights that are rescaled when they are read, channel by channel: the file keeps its values.

Each step is an entry beside the place of the values, so that a copy of the graph carries it along:
the axis, whether factors divide or multiply, and the factors as float32.
"""

from __future__ import annotations

import base64

import numpy as np
from onnx import StringStringEntryProto, TensorProto

from qgraph._graph.tensors import Array

_STEP = "qgraph.rescaled"


def rescale(values: Array, axis: int, factors: Array, *, divides: bool) -> Array:
    """Return `values` scaled along `axis` by `factors` [channels], rounded once to their dtype."""
    shape = [1] * values.ndim
    shape[axis] = -1
    wide = factors.astype(np.float64).reshape(shape)
    scaled: Array = values / wide if divides else values * wide
    return scaled.astype(values.dtype)


def rescale_on_reading(tensor: TensorProto, axis: int, factors: Array, *, divides: bool) -> None:
    """Note in a tensor on the disk that its values are to be rescaled."""
    text = base64.b64encode(factors.astype("<f4").tobytes()).decode("ascii")
    tensor.external_data.add(key=_STEP, value=f"{axis} {'/' if divides else '*'} {text}")


def rescaled(tensor: TensorProto, values: Array, rows: slice) -> Array:
    """Return `values`, these rows of what the file holds, with every step of `tensor` applied, in
    order.
    """
    for entry in steps_of(tensor):
        axis, sign, text = entry.value.split(" ")
        factors = np.frombuffer(base64.b64decode(text), "<f4")
        own = factors[rows] if int(axis) == 0 else factors
        values = rescale(values, int(axis), own, divides=sign == "/")
    return values


def is_rescaled(tensor: TensorProto) -> bool:
    """Return whether a tensor on the disk is read with other values than the file holds."""
    return any(entry.key == _STEP for entry in tensor.external_data)


def steps_of(tensor: TensorProto) -> list[StringStringEntryProto]:
    """Return the steps of a tensor on the disk, for another to carry on."""
    return [entry for entry in tensor.external_data if entry.key == _STEP]

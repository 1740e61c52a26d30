"""What is known of the tensors of a graph before it runs: element types, shapes, small constants.

A dimension is a number, a symbol (equal symbols are equal numbers) or None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.gradient.sizing import Dim, Shape, Sizes, sizes_of
from qgraph._graph.index import FLOATS, held_by, inferred
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array

_SMALL = 1 << 16
"""Elements of the largest constant whose values are looked at."""


class Known:
    """Element types, shapes and constant values of the main graph's tensors."""

    def __init__(self, model: onnx.ModelProto, within: Sizes | None = None) -> None:
        sizes = sizes_of(model, within)
        self._types = sizes.types
        self._shapes = sizes.shapes
        self._values = sizes.values
        self._small: dict[str, TensorProto] = {}
        self._graph = model.graph
        self._read(model)

    def _read(self, model: onnx.ModelProto) -> None:
        found = inferred(model, values=True)
        for value in (*found.value_info, *found.input, *found.output):
            self._describe(value)
        for value in (*self._graph.value_info, *self._graph.input, *self._graph.output):
            self._describe(value)
        for tensor in self._graph.initializer:
            self.hold(tensor)
        for node in self._graph.node:
            if node.op_type == "Constant":
                self._hold_constant(node)

    def _hold_constant(self, node: onnx.NodeProto) -> None:
        tensor = held_by(node)
        if tensor is not None:
            self.hold(numpy_helper.from_array(numpy_helper.to_array(tensor), node.output[0]))

    def _describe(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        if kind.elem_type:
            self._types[value.name] = kind.elem_type
        if kind.HasField("shape") and value.name not in self._shapes:
            self._shapes[value.name] = tuple(_dim(dim) for dim in kind.shape.dim)

    def hold(self, tensor: TensorProto) -> None:
        """Take in a constant."""
        self._types[tensor.name] = tensor.data_type
        self._shapes[tensor.name] = tuple(tensor.dims)
        if math.prod(tensor.dims) <= _SMALL:
            self._small[tensor.name] = tensor

    def type(self, name: str) -> int:
        """Return the element type (`TensorProto.DataType`), 0 where it is not known."""
        return self._types.get(name, 0)

    def is_float(self, name: str) -> bool:
        """Return whether a tensor can have a gradient."""
        return self.type(name) in FLOATS

    def dtype(self, name: str) -> np.dtype[np.generic]:
        """Return the element type as numpy's."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.type(name)))

    def shape(self, name: str) -> Shape | None:
        """Return the shape; None where not even the rank is known."""
        return self._shapes.get(name)

    def value(self, name: str) -> Array | None:
        """Return the values of a small tensor that are the same in every run; None of others."""
        if name in self._values:
            return self._values[name]
        tensor = self._small.get(name)
        return None if tensor is None else array_of(tensor)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def numbers(dims: Iterable[Dim] | None) -> list[int] | None:
    """Return dimensions of which each is a number; None where one is not."""
    dims = None if dims is None else list(dims)
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return [int(dim or 0) for dim in dims]


def are_equal(left: Shape | None, right: Shape | None) -> bool:
    """Return whether two shapes are certain to be the same."""
    if left is None or right is None or len(left) != len(right):
        return False
    return all(a is not None and a == b for a, b in zip(left, right, strict=True))


def summed_axes(
    of: Shape | None, broadcast: Shape | None, others: Iterable[Shape | None]
) -> list[int] | None:
    """Return the axes of `broadcast` that a tensor of shape `of` was repeated along.

    `others`: the shapes it was broadcast with. None: the shapes do not tell.
    """
    if of is None or broadcast is None:
        return None
    lead = len(broadcast) - len(of)
    aligned = [_aligned(shape, len(broadcast)) for shape in others]
    axes = list(range(lead))
    for axis in range(lead, len(broadcast)):
        mine, whole = of[axis - lead], broadcast[axis]
        if mine == 1 and whole != 1:
            axes.append(axis)
        elif not _stays(mine, whole) and not _met_ones(aligned, axis):
            return None
    return axes


def _stays(mine: Dim, whole: Dim) -> bool:
    """Return whether an axis of `mine` elements, not known to be 1, is certain to stay as it is."""
    return isinstance(mine, int) or (mine is not None and mine == whole)


def _met_ones(others: Sequence[Shape | None], axis: int) -> bool:
    return bool(others) and all(shape is not None and shape[axis] == 1 for shape in others)


def _aligned(shape: Shape | None, rank: int) -> Shape | None:
    return None if shape is None else (1,) * (rank - len(shape)) + shape

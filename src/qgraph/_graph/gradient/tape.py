"""The nodes of a backward pass as they are written, and the few forms that every rule needs.

A gradient has the shape and the type of its tensor. One that is equal along some axes may be held
*narrow*, with a dimension of 1 there, until something needs it whole: what multiplies it by a whole
tensor never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from qgraph._graph.edit.names import fresh_name
from qgraph._graph.gradient.shapes import Known, are_equal, numbers, summed_axes
from qgraph._graph.gradient.sizing import Dim, Shape
from qgraph._graph.tensors import Array

_LAST = 1 << 62
"""An end beyond every axis."""


class NoRuleError(Exception):
    """No gradient passes a node; the message says why."""


class Tape:
    """Backward nodes of one graph. Every method that returns a `str` returns a tensor's name."""

    def __init__(self, known: Known, opset: int, taken: set[str]) -> None:
        self.known = known
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.narrow: set[str] = set()
        self._taken = taken
        self._count = 0
        self._held: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._shapes: dict[Shape | str, str] = {}

    def name(self, spelling: str) -> str:
        """Return a tensor name that nothing else has."""
        self._count += 1
        name = fresh_name(f"{spelling}/{self._count}", self._taken)
        self._taken.add(name)
        return name

    def back_to(self, count: int) -> None:
        """Drop the nodes written since there were `count`."""
        del self.nodes[count:]
        there = {name for node in self.nodes for name in node.output}
        self._shapes = {of: name for of, name in self._shapes.items() if name in there}

    def make(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Write a node of several outputs and return them."""
        made = [self.name(f"adjoint/{op_type}") for _ in range(outputs)]
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, inputs, made, name=made[0], **given))
        return made

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one output and return it; an attribute that is None is left out."""
        return self.make(op_type, *inputs, **attributes)[0]

    def constant(self, values: ArrayLike, dtype: Any = None) -> str:
        """Return a constant; equal ones are held once."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str + array.dtype.name, array.shape, array.tobytes())
        if key not in self._held:
            self._held[key] = self.name("adjoint/constant")
            tensor = numpy_helper.from_array(array, self._held[key])
            self.constants.append(tensor)
            self.known.hold(tensor)
        return self._held[key]

    def ints(self, *values: int) -> str:
        """Return a constant: int64 [len(values)]."""
        return self.constant(values, np.int64)

    def scalar(self, value: float, like: str) -> str:
        """Return a constant of no axes, of the type of tensor `like`.

        Raises:
            NoRuleError: the type is not known, or no float.
        """
        if not self.known.is_float(like):
            raise NoRuleError(f"the type of its tensor {like!r} is not known, or no float")
        return self.constant(value, self.known.dtype(like))

    def shape_of(self, tensor: str) -> str:
        """Return the shape of a forward tensor: int64 [rank]."""
        sizes = numbers(self.known.shape(tensor))
        if sizes is not None:
            return self.ints(*sizes)
        shape = self.known.shape(tensor)
        # tensors of the same symbols share one Shape, which holds one of them until it has run
        key = shape if shape is not None and None not in shape else tensor
        if key not in self._shapes:
            self._shapes[key] = self.op("Shape", tensor)
        return self._shapes[key]

    def size_along(self, tensor: str, axes: Sequence[int]) -> str:
        """Return the sizes of some axes of a forward tensor: int64 [len(axes)]."""
        shape = self.known.shape(tensor)
        sizes = None if shape is None else numbers(shape[axis] for axis in axes)
        if sizes is not None:
            return self.ints(*sizes)
        return self.op("Gather", self.shape_of(tensor), self.ints(*axes), axis=0)

    def rank(self, tensor: str) -> int:
        """Return the number of axes of a forward tensor.

        Raises:
            NoRuleError: inference does not find it.
        """
        shape = self.known.shape(tensor)
        if shape is None:
            raise NoRuleError(f"the number of axes of its tensor {tensor!r} is not known")
        return len(shape)

    def axes(self, tensor: str, axes: Iterable[int]) -> list[int]:
        """Return `axes` of a forward tensor, counted from the front."""
        rank = self.rank(tensor)
        return [axis % rank if rank else 0 for axis in axes]

    def dim(self, tensor: str, axis: int) -> int | None:
        """Return the size of an axis of a forward tensor; None where it is not a number."""
        shape = self.known.shape(tensor)
        found = None if shape is None else shape[axis]
        return found if isinstance(found, int) else None

    # -- forms

    def reduce(
        self, op_type: str, tensor: str, axes: Sequence[int], *, keepdims: bool = True
    ) -> str:
        """Return a reduction over `axes`, which from opset 18 on is read as an input."""
        if op_type == "ReduceSum" or self.opset >= 18:
            return self.op(op_type, tensor, self.ints(*axes), keepdims=int(keepdims))
        return self.op(op_type, tensor, axes=list(axes), keepdims=int(keepdims))

    def unsqueeze(self, tensor: str, axes: Sequence[int]) -> str:
        """Return `tensor` with axes of size 1 put in."""
        return self.op("Unsqueeze", tensor, self.ints(*axes)) if axes else tensor

    def squeeze(self, tensor: str, axes: Sequence[int]) -> str:
        """Return `tensor` without some axes of size 1."""
        return self.op("Squeeze", tensor, self.ints(*axes)) if axes else tensor

    def slice(self, tensor: str, axis: int, start: str | int, end: str | int | None) -> str:
        """Return a run along an axis; a bound may be a tensor (int64 [1])."""
        first = self.ints(start) if isinstance(start, int) else start
        last = self.ints(_LAST) if end is None else end
        last = self.ints(last) if isinstance(last, int) else last
        return self.op("Slice", tensor, first, last, self.ints(axis))

    def reshape(self, gradient: str, like: str, given: str | None = None) -> str:
        """Return `gradient` in the shape of the forward tensor `like`.

        `given`: the forward tensor whose shape it has: dimensions at the same place as there need
        not be worked out.
        """
        shape = self.known.shape(like)
        before = self.known.shape(given) if given is not None else None
        target = None if shape is None else _spelled(shape, before or ())
        if target is None:
            return self.shaped(gradient, self.shape_of(like))
        return self.op("Reshape", gradient, self.ints(*target))

    def shaped(self, tensor: str, sizes: str) -> str:
        """Return `tensor` in a shape that a tensor holds, int64 [rank]; an axis may be empty."""
        # before opset 14 a size of 0 is that of the tensor itself
        return self.op("Reshape", tensor, sizes, allowzero=1 if self.opset >= 14 else None)

    def whole(self, gradient: str, like: str) -> str:
        """Return a gradient that may be narrow in the shape of its tensor `like`."""
        if gradient not in self.narrow:
            return gradient
        return self.op("Expand", gradient, self.shape_of(like))

    def held_narrow(self, gradient: str) -> str:
        """Note that `gradient` is held narrow, and return it."""
        self.narrow.add(gradient)
        return gradient

    def times(self, gradient: str, factor: str, of: str) -> str:
        """Return the gradient of `of` times a tensor that broadcasts to it."""
        known = self.known
        if gradient in self.narrow and not are_equal(known.shape(factor), known.shape(of)):
            gradient = self.whole(gradient, of)
        return self.op("Mul", gradient, factor)

    def scaled(self, gradient: str, factor: float, like: str) -> str:
        """Return a gradient times a number, narrow if it was; `like` has its type."""
        if factor == 1:
            return gradient
        made = self.op("Mul", gradient, self.scalar(factor, like))
        return self.held_narrow(made) if gradient in self.narrow else made

    def unbroadcast(self, gradient: str, of: str, broadcast: str, others: Sequence[str]) -> str:
        """Return the gradient of `of`, an operand, from that of the result `broadcast`.

        It is summed over the axes that `of` was repeated along, if any; `others` are the operands
        it met.
        """
        shapes = [self.known.shape(other) for other in others]
        mine, whole = self.known.shape(of), self.known.shape(broadcast)
        axes = summed_axes(mine, whole, shapes)
        if axes == []:
            return gradient
        gradient = self.whole(gradient, broadcast)
        if axes is None or mine is None or whole is None:
            return self._summed_at_run_time(gradient, of, broadcast)
        lead = len(whole) - len(mine)
        if all(axis < lead for axis in axes):
            return self.reduce("ReduceSum", gradient, axes, keepdims=False)
        return self.squeeze(self.reduce("ReduceSum", gradient, axes), range(lead))

    def _summed_at_run_time(self, gradient: str, of: str, broadcast: str) -> str:
        """Sum over the axes whose sizes differ when the graph runs."""
        mine, whole = self.shape_of(of), self.shape_of(broadcast)
        lead = self.op("Sub", self.op("Shape", whole), self.op("Shape", mine))
        ones = self.op("ConstantOfShape", lead, value=helper.make_tensor("", 7, [1], [1]))
        aligned = self.op("Concat", ones, mine, axis=0)
        differs = self.op("Not", self.op("Equal", aligned, whole))
        axes = self.op("Reshape", self.op("NonZero", differs), self.ints(-1))
        summed = self.op("ReduceSum", gradient, axes, keepdims=1, noop_with_empty_axes=1)
        return self.shaped(summed, mine)

    def zeros(self, like: str) -> str:
        """Return zeros in the shape and type of a forward tensor."""
        return self.op("Expand", self.scalar(0, like), self.shape_of(like))

    def total(self, gradients: Sequence[str], of: str) -> str:
        """Return the sum of the gradients that reach one tensor."""
        if len(gradients) == 1:
            return gradients[0]
        narrow = [name for name in gradients if name in self.narrow]
        if len(narrow) == len(gradients):
            gradients = [self.whole(gradients[0], of), *gradients[1:]]
        return self.op("Add" if len(gradients) == 2 else "Sum", *gradients)

    def matrix(self, values: Array, like: str) -> str:
        """Return a constant matrix of the type of tensor `like`."""
        return self.constant(values.astype(self.known.dtype(like)))


def _spelled(shape: Sequence[Dim], before: Sequence[Dim]) -> list[int] | None:
    """Return what Reshape is told to make `shape` of `before`; None where that takes a Shape."""
    if 0 in shape:
        return None
    target: list[int] = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            target.append(dim)
        elif axis < len(before) and dim is not None and dim == before[axis]:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None

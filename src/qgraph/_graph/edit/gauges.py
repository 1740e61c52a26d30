"""Gauges beside the tensors of an fp32 graph: how large they get, and what fp16 would lose of them.

All are scalars worked out in the graph, so that no tensor has to be handed out to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import copied, weave_in
from qgraph._graph.edit.opsets import reads_axes
from qgraph._graph.io.models import tensor_from

_SUFFIX = "/qgraph.gauge"
_MOVES = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
        *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)


@dataclass(frozen=True, slots=True)
class Gauge:
    """Names of scalars. `high`, `low`: extremes, −∞ and ∞ of an empty tensor. `lost`, `energy`:
    Σ(x − fp16(x))², Σx².
    """

    high: str
    low: str
    lost: str
    energy: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.high, self.low, self.lost, self.energy)


class GaugeFitter:
    """Adds gauges to a copy of `model`; `model` is complete after `finish`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copied(model)
        self._made: list[onnx.NodeProto] = []
        self._named: set[str] = set()

    def finish(self) -> None:
        """Put the gauges into the graph, each right after what it reads."""
        weave_in(self.model.graph, self._made)

    def on(self, tensor: str) -> Gauge:
        half = self._node("Cast", f"{tensor}/half", tensor, to=TensorProto.FLOAT16)
        back = self._node("Cast", f"{tensor}/back", half, to=TensorProto.FLOAT)
        off = self._node("Sub", f"{tensor}/off", tensor, back)
        return Gauge(
            self._node("ReduceMax", f"{tensor}/high", tensor, keepdims=0),
            self._node("ReduceMin", f"{tensor}/low", tensor, keepdims=0),
            self._node("ReduceSumSquare", f"{tensor}/lost", off, keepdims=0),
            self.energy(tensor),
        )

    def energy(self, tensor: str) -> str:
        """Return Σx² of a float tensor: not finite where it holds NaN or infinity."""
        return self._node("ReduceSumSquare", f"{tensor}/energy", tensor, keepdims=0)

    def sum_inside(self, node: onnx.NodeProto) -> str:
        """Return the largest sum of magnitudes inside a reduction of `node.input[0]`."""
        op = "ReduceSumSquare" if node.op_type in ("ReduceL2", "ReduceSumSquare") else "ReduceL1"
        total = self._reduction(node, op, node.input[0], f"{node.output[0]}/sum")
        return self._largest(total, f"{node.output[0]}/sum.largest")

    def length_along(self, tensor: str, axis: int) -> str:
        """Return the largest Euclidean length that `tensor` has along `axis`."""
        stem = f"{tensor}/length.{axis}"
        if reads_axes(self.model):
            length = self._node("ReduceL2", stem, tensor, self._axis(axis), keepdims=0)
        else:
            length = self._node("ReduceL2", stem, tensor, axes=[axis], keepdims=0)
        return self._largest(length, f"{tensor}/length.{axis}.largest")

    def _largest(self, tensor: str, stem: str) -> str:
        return self._node("ReduceMax", stem, tensor, keepdims=0)

    def _reduction(self, like: onnx.NodeProto, op: str, tensor: str, stem: str) -> str:
        """Return `tensor` reduced by another operator along the axes of `like`."""
        made = copied(like)
        name = f"{stem}{_SUFFIX}"
        made.op_type, made.name, made.input[0] = op, f"{name}/{op}", tensor
        made.output[:] = [name]
        self._made.append(made)
        return name

    def _node(self, op: str, stem: str, *inputs: str, **attributes: Any) -> str:
        name = f"{stem}{_SUFFIX}"
        if name not in self._named:
            self._made.append(helper.make_node(op, list(inputs), [name], name, **attributes))
            self._named.add(name)
        return name

    def _axis(self, axis: int) -> str:
        name = f"axis.{axis}{_SUFFIX}"
        if name not in self._named:
            self.model.graph.initializer.append(tensor_from(name, np.array([axis], np.int64)))
            self._named.add(name)
        return name


def only_moves(node: onnx.NodeProto) -> bool:
    """Return whether what a node makes are values that it reads, none larger, none smaller."""
    return node.op_type in _MOVES


def reductions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that sum up along axes."""
    ops = ("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
    return (node for node in model.graph.node if node.op_type in ops)

"""The layers that smoothing rescales: where the channels of what they read and compute lie.

| reader                  | X                  | channels of X along | `W` takes s along |
|-------------------------|--------------------|---------------------|-------------------|
| MatMul, Gemm            | [..., C]           | the last            | K                 |
| Conv                    | [B, C, spatial...] | 1                   | 1                 |
| Conv, a group a channel | [B, C, spatial...] | 1                   | 0                 |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from qgraph._graph.edit.nodes import MATMULS, QuantizableNode, Weight
from qgraph._graph.index import attributes
from qgraph._graph.tensors import Array


@dataclass(frozen=True, slots=True)
class Heads:
    """Channels [kv · group · size] of attention: `group` query heads share one of values."""

    kv: int
    group: int
    size: int

    def largest(self, values: Array) -> Array:
        """Return [kv · group · size] with the largest of each group in the place of all of it."""
        apart = values.reshape(self.kv, self.group, self.size)
        return np.broadcast_to(apart.max(axis=1, keepdims=True), apart.shape).reshape(-1)

    def of_values(self, factors: Array) -> Array:
        """Return the factors [kv · size] of the value heads."""
        return factors.reshape(self.kv, self.group, self.size)[:, 0].reshape(-1)


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant operand of a node: input `index` of `node`, its channels along `axis`. `heads`:
    where they are those of attention's values, each with one factor for its query heads.
    """

    node: str
    index: int
    axis: int
    heads: Heads | None = None


@dataclass(frozen=True, slots=True)
class Along:
    """Where factors lie in an activation: on `channels`, before `spatial` other axes."""

    channels: int
    spatial: int


@dataclass(frozen=True, slots=True)
class ScaledLayer:
    """A linear or a convolution. `operand` takes the factors of what it reads, which lie `along`;
    its `channel_axis` takes those of what it `makes`.
    """

    operand: Operand
    along: Along
    makes: Along
    channel_axis: int


def layer_of(proto: onnx.NodeProto, node: QuantizableNode) -> ScaledLayer | None:
    """Return how a quantizable node is rescaled, None where it cannot be."""
    if node.weight is None or node.weight.axis is None:
        return None
    if node.op_type == "Conv":
        return _convolution(proto, node.weight)
    if node.op_type in MATMULS and not attributes(proto).get("transA"):
        return _linear(node.name, node.weight, node.weight.axis)
    return None


def _linear(name: str, weight: Weight, out: int) -> ScaledLayer:
    operand = Operand(name, weight.index, 1 - out)
    return ScaledLayer(operand, Along(weight.shape[1 - out], 0), Along(weight.shape[out], 0), out)


def _convolution(proto: onnx.NodeProto, weight: Weight) -> ScaledLayer | None:
    """Return a convolution [M, C/g, spatial...] of one group, or of as many as it has channels."""
    groups, (outputs, inputs, *kernel) = attributes(proto).get("group", 1), weight.shape
    if groups != 1 and (groups, inputs) != (outputs, 1):
        return None
    operand = Operand(proto.name, weight.index, 1 if groups == 1 else 0)
    along, makes = (Along(count, len(kernel)) for count in (inputs * groups, outputs))
    return ScaledLayer(operand, along, makes, 0)

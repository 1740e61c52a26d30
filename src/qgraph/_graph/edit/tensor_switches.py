"""Switches for a placement in which Q/DQ belongs to tensors, not to the nodes that read them.

So Intel Neural Compressor places them. Rules, numbered as in the code; a node is on or off:

1. A node that is on computes with quantized weight and bias, and its output passes through Q/DQ:
   whoever reads that output reads it dequantized. (INC sets a Gemm's `beta` to 1 there.)
2. A tensor that a node which is on reads passes through Q/DQ. Nodes that are off, and other
   operators of the kinds that INC knows (`followers`), then read the dequantized tensor too.
3. Except a graph input, which only the nodes that are on read dequantized.

A branch that is on holds the whole pattern DequantizeLinear → operator → QuantizeLinear, so that a
session with all optimizations runs it by the integer kernels that INC's models run by; a tensor
that is dequantized already passes a second Q/DQ of the same scale unchanged. Not reproduced: INC
leaves readers untouched where one node has two outputs that are quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import copied, replace_nodes, tensor_names
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.qdq import QuantizedWeight
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array

PREFIX = "qgraph.tensor_switch."


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """`scale`: float32, 0-D, units per step; `zero_point`: 0-D, of the quantized type."""

    scale: Array
    zero_point: Array


@dataclass(frozen=True, slots=True, eq=False)
class TensorQuantization:
    """`weights`, `biases`: node → operand; `activations`: every tensor a node reads or makes."""

    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, QuantizedWeight]
    activations: Mapping[str, Affine]


@dataclass(frozen=True, slots=True, eq=False)
class TensorSwitchGraph:
    """`switches`: bool graph input → the nodes of which any that is on turns it on."""

    model: onnx.ModelProto
    switches: Mapping[str, frozenset[str]]


def insert_tensor_switches(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    quantization: TensorQuantization,
    followers: Collection[str],
) -> TensorSwitchGraph:
    """Return a copy of `model` in which each of `nodes` can be on or off."""
    switched = copied(model)
    builder = _Builder(switched.graph, quantization)
    chosen = {node.name for node in nodes}
    produced = {name for proto in model.graph.node for name in proto.output}
    readers: dict[str, frozenset[str]] = {}
    for node in nodes:
        for _, tensor in node.activations:
            readers[tensor] = readers.get(tensor, frozenset()) | {node.name}
    seen = {tensor: builder.tensor(tensor) for tensor in readers if tensor in produced}
    made: list[onnx.NodeProto] = []
    for index, proto in enumerate(model.graph.node):
        is_chosen = proto.name in chosen
        copy = copied(proto)
        if is_chosen or proto.op_type in followers:
            copy.input[:] = [seen.get(name, name) for name in proto.input]
        made.append(builder.node(copy, proto, index) if is_chosen else copy)
        made += [
            builder.seen(name, seen[name], readers[name]) for name in proto.output if name in seen
        ]
    replace_nodes(switched.graph, made)
    switched.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in builder.switches
    )
    return TensorSwitchGraph(switched, builder.switches)


class _Builder:
    """Makes the `If` nodes and their switches."""

    def __init__(self, graph: onnx.GraphProto, quantization: TensorQuantization) -> None:
        self._quantization = quantization
        self._taken = tensor_names(graph)
        self.switches: dict[str, frozenset[str]] = {}

    def tensor(self, name: str) -> str:
        """Return the name under which readers see a tensor that may be quantized."""
        return self._fresh(f"{name}/qgraph.seen")

    def seen(self, name: str, seen: str, readers: frozenset[str]) -> onnx.NodeProto:
        """Return the `If` that makes what readers see; rule 2."""
        on = _Branch(self._fresh)
        dequantized = on.pair(name, self._quantization.activations[name])
        off = _Branch(self._fresh)
        untouched = off.add("Identity", [name])
        return self._if(seen, [seen], readers, on.graph(dequantized), off.graph(untouched))

    def node(self, proto: onnx.NodeProto, original: onnx.NodeProto, index: int) -> onnx.NodeProto:
        """Return the `If` that stands for a node that reads what readers see; rules 1 and 3."""
        on, off = _Branch(self._fresh), _Branch(self._fresh)
        inputs = [on.pair(proto.input[0], self._quantization.activations[original.input[0]])]
        inputs.append(on.dequantized(self._quantization.weights[proto.name]))
        if proto.name in self._quantization.biases:
            inputs.append(on.dequantized(self._quantization.biases[proto.name]))
        made = on.copy(proto, inputs, f"on.{index}")
        for attribute in on.nodes[-1].attribute:
            if attribute.name == "beta":
                attribute.f = 1.0
        result = on.pair(made, self._quantization.activations[original.output[0]])
        untouched = off.copy(proto, list(proto.input), f"off.{index}")
        outputs, nodes = list(proto.output), frozenset({proto.name})
        return self._if(proto.name, outputs, nodes, on.graph(result), off.graph(untouched))

    def _if(
        self,
        name: str,
        outputs: list[str],
        nodes: frozenset[str],
        on: onnx.GraphProto,
        off: onnx.GraphProto,
    ) -> onnx.NodeProto:
        switch = self._fresh(f"{PREFIX}{len(self.switches)}")
        self.switches[switch] = nodes
        return helper.make_node("If", [switch], outputs, name=name, then_branch=on, else_branch=off)

    def _fresh(self, wanted: str) -> str:
        return fresh_name(wanted, self._taken)


class _Branch:
    """A branch being made: its nodes and its own constants."""

    def __init__(self, fresh: Callable[[str], str]) -> None:
        self._fresh = fresh
        self.nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], axis: int | None = None) -> str:
        """Add a node; return its output."""
        output = self._fresh(f"{inputs[0]}/{op}")
        node = helper.make_node(op, inputs, [output], name=output)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return output

    def pair(self, tensor: str, affine: Affine) -> str:
        """Add Q and DQ; return the dequantized tensor."""
        scale, zero = self._constant(affine.scale), self._constant(affine.zero_point)
        quantized = self.add("QuantizeLinear", [tensor, scale, zero])
        return self.add("DequantizeLinear", [quantized, scale, zero])

    def dequantized(self, steps: QuantizedWeight) -> str:
        """Add a quantized constant and its DQ; return what the DQ makes."""
        zero = self._constant(np.zeros(steps.scale.shape, steps.values.dtype))
        inputs = [self._constant(steps.values), self._constant(steps.scale), zero]
        return self.add("DequantizeLinear", inputs, axis=steps.axis)

    def copy(self, proto: onnx.NodeProto, inputs: list[str], tag: str) -> str:
        """Add `proto` with other inputs; return its output."""
        inner = copied(proto)
        inner.name = f"{proto.name}/{tag}"
        inner.input[:] = inputs
        output = self._fresh(f"{proto.output[0]}/{tag}")
        inner.output[:] = [output]
        self.nodes.append(inner)
        return output

    def graph(self, output: str) -> onnx.GraphProto:
        """Return the branch, which yields `output`."""
        values = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        return helper.make_graph(self.nodes, output, [], values, self._constants)

    def _constant(self, array: Array) -> str:
        name = self._fresh("qgraph.constant")
        self._constants.append(tensor_from(name, np.asarray(array)))
        return name

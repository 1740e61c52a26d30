"""Switches for a placement in which Q/DQ belongs to tensors, not to the nodes that read them.

So Intel Neural Compressor places them. Rules, numbered as in the code; a node is on or off:

1. A node that is on computes with quantized weight and bias, and its output passes through Q/DQ:
   whoever reads that output reads it dequantized. (INC sets a Gemm's `beta` to 1 there.)
2. A tensor that a node which is on reads passes through Q/DQ. Nodes that are off, and other
   operators of the kinds that INC knows (`followers`), then read the dequantized tensor too.
3. Except a graph input, which only the nodes that are on read dequantized.

A node without operands to quantize, or a tensor that several outputs of one node stand beside, is
no different here. (INC leaves siblings untouched where one node has two outputs quantized.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from graph.edit.names import fresh_name
from graph.edit.nodes import QuantizableNode
from graph.io.models import tensor_from
from graph.tensors import Array

PREFIX = "qgraph.tensor_switch."


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """`scale`: float32, 0-D, units per step; `zero_point`: 0-D, of the quantized type."""

    scale: Array
    zero_point: Array


@dataclass(frozen=True, slots=True, eq=False)
class TensorQuantization:
    """`weights`, `biases`: node → fake-quantized float32 values of the operand's shape;
    `activations`: every tensor that a node reads or makes.
    """

    weights: Mapping[str, Array]
    biases: Mapping[str, Array]
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
    switched = onnx.ModelProto()
    switched.CopyFrom(model)
    builder = _Builder(switched.graph, quantization)
    chosen = {node.name: node for node in nodes}
    produced = {name for proto in model.graph.node for name in proto.output}
    readers: dict[str, frozenset[str]] = {}
    for node in nodes:
        for _, tensor in node.activations:
            readers[tensor] = readers.get(tensor, frozenset()) | {node.name}
    seen = {tensor: builder.tensor(tensor) for tensor in readers if tensor in produced}
    made: list[onnx.NodeProto] = []
    for index, proto in enumerate(model.graph.node):
        node = chosen.get(proto.name)
        copy = onnx.NodeProto()
        copy.CopyFrom(proto)
        if node is not None or proto.op_type in followers:
            copy.input[:] = [seen.get(name, name) for name in proto.input]
        made.append(copy if node is None else builder.node(copy, node, index, set(seen.values())))
        made += [
            builder.seen(name, seen[name], readers[name]) for name in proto.output if name in seen
        ]
    del switched.graph.node[:]
    switched.graph.node.extend(made)
    switched.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in builder.switches
    )
    return TensorSwitchGraph(switched, builder.switches)


class _Builder:
    """Makes the `If` nodes, their switches and the initializers they share."""

    def __init__(self, graph: onnx.GraphProto, quantization: TensorQuantization) -> None:
        self._graph = graph
        self._quantization = quantization
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)} | {
            item.name for item in (*graph.input, *graph.initializer)
        }
        self._made: dict[str, str] = {}
        self.switches: dict[str, frozenset[str]] = {}

    def tensor(self, name: str) -> str:
        """Return the name under which readers see a tensor that may be quantized."""
        return self._fresh(f"{name}/qgraph.seen")

    def seen(self, name: str, seen: str, readers: frozenset[str]) -> onnx.NodeProto:
        """Return the `If` that makes what readers see; rule 2."""
        output = f"{seen}/q"
        quantized = helper.make_graph(self._pair(name, output, seen), "q", [], [_float(output)])
        plain = f"{seen}/plain"
        identity = helper.make_node("Identity", [name], [plain], name=plain)
        untouched = helper.make_graph([identity], "plain", [], [_float(plain)])
        return helper.make_node(
            "If",
            [self._switch(readers)],
            [seen],
            name=seen,
            then_branch=quantized,
            else_branch=untouched,
        )

    def node(
        self, proto: onnx.NodeProto, node: QuantizableNode, index: int, seen: Collection[str]
    ) -> onnx.NodeProto:
        """Return the `If` that stands for a node; rule 1."""
        off = onnx.NodeProto()
        off.CopyFrom(proto)
        off.name, off.output[0] = f"{proto.name}/off.{index}", f"{proto.output[0]}/off.{index}"
        on = self._on(proto, node, index, seen)
        result = on[-1].output[0]
        return helper.make_node(
            "If",
            [self._switch(frozenset({node.name}))],
            list(proto.output),
            name=proto.name,
            then_branch=helper.make_graph(on, f"on.{index}", [], [_float(result)]),
            else_branch=helper.make_graph([off], f"off.{index}", [], [_float(off.output[0])]),
        )

    def _on(
        self, proto: onnx.NodeProto, node: QuantizableNode, index: int, seen: Collection[str]
    ) -> list[onnx.NodeProto]:
        raw = f"{proto.output[0]}/on.{index}"
        on = onnx.NodeProto()
        on.CopyFrom(proto)
        on.name, on.output[0] = f"{proto.name}/on.{index}", raw
        on.input[1] = self._initializer(f"{node.name}/weight", self._quantization.weights[node.name])
        if node.name in self._quantization.biases:
            bias = self._quantization.biases[node.name]
            on.input[2] = self._initializer(f"{node.name}/bias", bias)
            for attribute in on.attribute:
                if attribute.name == "beta":
                    attribute.f = 1.0
        before: list[onnx.NodeProto] = []
        data = proto.input[0]
        if data not in seen:  # rule 3
            on.input[0] = f"{data}/on.{index}"
            before = self._pair(data, on.input[0], on.name)
        return [*before, on, *self._pair(proto.output[0], f"{raw}/dq", f"{raw}/out", source=raw)]

    def _pair(
        self, tensor: str, output: str, stem: str, source: str | None = None
    ) -> list[onnx.NodeProto]:
        """Return Q and DQ of `source` with the numbers of `tensor`."""
        affine = self._quantization.activations[tensor]
        scale = self._initializer(f"{tensor}/scale", affine.scale)
        zero = self._initializer(f"{tensor}/zero_point", affine.zero_point)
        inner = f"{stem}/quantized"
        return [
            helper.make_node("QuantizeLinear", [source or tensor, scale, zero], [inner]),
            helper.make_node("DequantizeLinear", [inner, scale, zero], [output]),
        ]

    def _switch(self, nodes: frozenset[str]) -> str:
        name = self._fresh(f"{PREFIX}{len(self.switches)}")
        self.switches[name] = nodes
        return name

    def _initializer(self, key: str, array: Array) -> str:
        if key not in self._made:
            self._made[key] = self._fresh(f"{key}/qgraph")
            self._graph.initializer.append(tensor_from(self._made[key], np.asarray(array)))
        return self._made[key]

    def _fresh(self, wanted: str) -> str:
        name = fresh_name(wanted, self._taken)
        self._taken.add(name)
        return name


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

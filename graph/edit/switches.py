"""Switches: one graph in which each node can be quantized or not, run by run.

A candidate becomes `If(switch) {fake-quantized inputs → node} else {node}`. Only the branch taken
runs, so with every switch off the graph costs what the float graph costs. Weights are
fake-quantized once and lie beside the float ones; activations are quantized inside the branch, so
a neighbour whose switch is off reads the untouched tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from graph.edit.names import fresh_name
from graph.edit.nodes import QuantizableNode
from graph.io.models import tensor_from
from graph.tensors import Array

PREFIX = "qgraph.switch."


@dataclass(frozen=True, slots=True, eq=False)
class FakeQuantization:
    """`weights`: (tensor name, axis) → fake-quantized copy, shape and dtype of the float tensor.
    `scales`: activation name → scale, 0-D, in the dtype of the tensor.
    """

    weights: Mapping[tuple[str, int | None], Array]
    scales: Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class SwitchGraph:
    """`inputs`: node name → the bool graph input that switches it."""

    model: onnx.ModelProto
    inputs: Mapping[str, str]


def insert_switches(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], quantization: FakeQuantization
) -> SwitchGraph:
    """Return a copy of `model` in which each of `nodes` has a switch."""
    switched = onnx.ModelProto()
    switched.CopyFrom(model)
    taken = _tensor_names(switched)
    builder = _Builder(switched.graph, taken, quantization)
    chosen = {node.name: node for node in nodes}
    inputs: dict[str, str] = {}
    for index, proto in enumerate(switched.graph.node):
        if proto.name in chosen:
            switch = fresh_name(f"{PREFIX}{len(inputs)}", taken)
            inputs[proto.name] = switch
            proto.CopyFrom(builder.switched(proto, chosen[proto.name], switch, index))
    switched.graph.input.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in inputs.values()
    )
    return SwitchGraph(switched, inputs)


def _tensor_names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    return {name for node in graph.node for name in (*node.input, *node.output)} | {
        item.name for item in (*graph.input, *graph.initializer)
    }


class _Builder:
    """Makes the `If` nodes and the initializers they share."""

    def __init__(
        self, graph: onnx.GraphProto, taken: set[str], quantization: FakeQuantization
    ) -> None:
        self._graph = graph
        self._taken = taken
        self._quantization = quantization
        self._made: dict[str, str] = {}

    def switched(
        self, proto: onnx.NodeProto, node: QuantizableNode, switch: str, index: int
    ) -> onnx.NodeProto:
        """Return the `If` that stands for `proto`."""
        before, rename = self._quantized(proto, node)
        scale = self._quantization.scales[node.activations[0][1]]
        dtype = int(helper.np_dtype_to_tensor_dtype(scale.dtype))
        return helper.make_node(
            "If",
            [switch],
            list(proto.output),
            name=proto.name,
            then_branch=_branch(proto, before, rename, f"then.{index}", dtype),
            else_branch=_branch(proto, [], {}, f"else.{index}", dtype),
        )

    def _quantized(
        self, proto: onnx.NodeProto, node: QuantizableNode
    ) -> tuple[list[onnx.NodeProto], dict[int, str]]:
        """Return the Q and DQ of every activation, and input position → what replaces it."""
        rename: dict[int, str] = {}
        if node.weight is not None:
            key = (node.weight.tensor, node.weight.axis)
            label = f"{node.weight.tensor}/axis.{node.weight.axis}"
            rename[node.weight.index] = self._initializer(label, self._quantization.weights[key])
        pairs: list[onnx.NodeProto] = []
        for name in dict.fromkeys(name for _, name in node.activations):
            scale = self._initializer(f"{name}/scale", self._quantization.scales[name])
            zero = self._initializer("qgraph.zero_point", np.zeros((), np.int8))
            q, dq = (self._fresh(f"{proto.name}/{name}/{tag}") for tag in ("q", "dq"))
            pairs += [
                helper.make_node("QuantizeLinear", [name, scale, zero], [q]),
                helper.make_node("DequantizeLinear", [q, scale, zero], [dq]),
            ]
            rename |= {index: dq for index, read in node.activations if read == name}
        return pairs, rename

    def _fresh(self, wanted: str) -> str:
        name = fresh_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def _initializer(self, key: str, array: Array) -> str:
        if key not in self._made:
            name = self._fresh(f"{key}/qgraph")
            self._graph.initializer.append(tensor_from(name, array))
            self._made[key] = name
        return self._made[key]


def _branch(
    proto: onnx.NodeProto,
    before: list[onnx.NodeProto],
    rename: Mapping[int, str],
    tag: str,
    dtype: int,
) -> onnx.GraphProto:
    """Return a branch: `before`, then `proto` with its inputs renamed."""
    inner = onnx.NodeProto()
    inner.CopyFrom(proto)
    inner.name = f"{proto.name}/{tag}"
    inner.input[:] = [rename.get(index, name) for index, name in enumerate(proto.input)]
    inner.output[:] = [f"{name}/{tag}" for name in proto.output]
    outputs = [helper.make_tensor_value_info(name, dtype, None) for name in inner.output]
    return helper.make_graph([*before, inner], tag, [], outputs)

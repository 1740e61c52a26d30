"""Switches: one graph in which each node can be quantized or not, run by run.

A candidate becomes `If(switch) {fake-quantized inputs → node} else {node}`. Only the branch taken
runs, so with every switch off the graph costs what the float graph costs. Weights are
fake-quantized once and lie beside the float ones; activations are quantized inside the branch, so
a neighbour whose switch is off reads the untouched tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from qgraph._graph.bodies import copied
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import FakeQuantizer, Origin
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.tensors import Array

PREFIX = "qgraph.switch."


@dataclass(frozen=True, slots=True, eq=False)
class SwitchGraph:
    """`inputs`: node name → the bool graph input that switches it. `weights`: quantized ones, which
    `model` only declares. `names`, `scales`: see `FakeQuantizer`.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, str]
    weights: Mapping[str, Array]
    names: Mapping[str, str]
    scales: Mapping[str, Origin]


def insert_switches(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    *,
    integers: bool = False,
) -> SwitchGraph:
    """Return a copy of `model` in which each of `nodes` has a switch; `integers`: whether quantized
    ones multiply whole numbers.
    """
    switched = copied(model)
    quantizer = FakeQuantizer(switched.graph, quantization, integers=integers)
    chosen = {node.name: node for node in nodes}
    inputs: dict[str, str] = {}
    for index, proto in enumerate(switched.graph.node):
        if proto.name in chosen:
            switch = quantizer.fresh(f"{PREFIX}{len(inputs)}")
            inputs[proto.name] = switch
            proto.CopyFrom(_switched(proto, chosen[proto.name], quantizer, switch, index))
    switched.graph.input.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []) for name in inputs.values()
    )
    return SwitchGraph(switched, inputs, quantizer.weights, quantizer.names, quantizer.scales)


def _switched(
    proto: onnx.NodeProto, node: QuantizableNode, quantizer: FakeQuantizer, switch: str, index: int
) -> onnx.NodeProto:
    """Return the `If` that stands for `proto`."""
    dtype = quantizer.data_type(node)
    quantized, made = quantizer.quantized(proto, node)
    plain = copied(proto)
    plain.name = f"{proto.name}/else.{index}"
    plain.output[:] = [f"{node.output}/else.{index}"]
    return helper.make_node(
        "If",
        [switch],
        list(proto.output),
        name=proto.name,
        then_branch=_branch(quantized, made, dtype),
        else_branch=_branch([plain], plain.output[0], dtype),
    )


def _branch(nodes: list[onnx.NodeProto], made: str, dtype: int) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(made, dtype, None)
    return helper.make_graph(nodes, made, [], [output])

"""Shadows: beside each node a quantized copy of it, and how far their outputs are apart.

The float graph runs as ever; each shadow reads the float tensors. So one run tells, for every node
at once, what quantizing it does to its own output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from graph.edit.fake_quantize import FakeQuantization, FakeQuantizer
from graph.edit.nodes import QuantizableNode
from graph.edit.weave import weave_in
from graph.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class ShadowGraph:
    """`outputs`: node → the outputs that hold Σ(y − ŷ)² and Σy², float32 scalars. `weights`:
    quantized ones, which `model` only declares.
    """

    model: onnx.ModelProto
    outputs: Mapping[str, tuple[str, str]]
    weights: Mapping[str, Array]


def insert_shadows(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], quantization: FakeQuantization
) -> ShadowGraph:
    """Return a copy of `model` whose only outputs are the sums of each of `nodes`."""
    shadowed = onnx.ModelProto()
    shadowed.CopyFrom(model)
    graph = shadowed.graph
    quantizer = FakeQuantizer(graph, quantization)
    chosen = {node.name: node for node in nodes}
    outputs: dict[str, tuple[str, str]] = {}
    shadows: list[onnx.NodeProto] = []
    for proto in graph.node:
        if proto.name in chosen:
            made, outputs[proto.name] = _shadow(proto, chosen[proto.name], quantizer)
            shadows += made
    weave_in(graph, shadows)
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [])
        for pair in outputs.values()
        for name in pair
    )
    return ShadowGraph(shadowed, outputs, quantizer.weights)


def _shadow(
    proto: onnx.NodeProto, node: QuantizableNode, quantizer: FakeQuantizer
) -> tuple[list[onnx.NodeProto], tuple[str, str]]:
    before, rename = quantizer.inputs_of(proto, node)
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    copy.name = f"{proto.name}/shadow"
    copy.input[:] = [rename.get(index, name) for index, name in enumerate(proto.input)]
    copy.output[:] = [quantizer.fresh(f"{proto.name}/shadow")]
    names = [quantizer.fresh(f"{proto.name}/{tag}") for tag in ("off", "y", "d", "error", "signal")]
    off, single, difference, error, signal = names
    after = [
        helper.make_node("Sub", [proto.output[0], copy.output[0]], [off]),
        helper.make_node("Cast", [off], [difference], to=TensorProto.FLOAT),
        helper.make_node("Cast", [proto.output[0]], [single], to=TensorProto.FLOAT),
        helper.make_node("ReduceSumSquare", [difference], [error], keepdims=0),
        helper.make_node("ReduceSumSquare", [single], [signal], keepdims=0),
    ]
    return [*before, copy, *after], (error, signal)

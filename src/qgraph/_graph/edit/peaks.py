"""The largest magnitude in each channel of what nodes read, worked out in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import weave_in
from qgraph._graph.edit.nodes import MATMULS, QuantizableNode, Weight
from qgraph._graph.edit.opsets import reads_axes
from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.models import tensor_from

_SUFFIX = "/qgraph.peaks"


def insert_peaks(model: onnx.ModelProto, nodes: Sequence[QuantizableNode]) -> dict[str, str]:
    """Add to `model`, for the activation of each node with a weight, its peaks.

    Returns node → tensor [channels], float32; channels are what the node sums over.
    """
    protos = GraphIndex(model).by_name
    made: list[onnx.NodeProto] = []
    shared: dict[tuple[str, str], str] = {}
    found: dict[str, str] = {}
    for node in nodes:
        if node.weight is None:
            continue
        tensor, along = node.activations[0][1], _along(protos[node.name])
        if (tensor, along) not in shared:
            shared[tensor, along] = f"{tensor}{_SUFFIX}.{along}"
            made += _peaks(model, along, node.weight, tensor, shared[tensor, along])
        found[node.name] = shared[tensor, along]
    weave_in(model.graph, made)
    return found


def _along(proto: onnx.NodeProto) -> str:
    """Return where the channels of what a node reads lie: `rows` have them last, `columns` first,
    of `maps` they are the second axis.
    """
    if proto.op_type not in MATMULS:
        return "maps"
    return "columns" if attributes(proto).get("transA") else "rows"


def _peaks(
    model: onnx.ModelProto, along: str, weight: Weight, tensor: str, result: str
) -> list[onnx.NodeProto]:
    graph = model.graph
    magnitude, single, axes = (f"{result}.{tag}" for tag in ("abs", "fp32", "axes"))
    nodes = [
        helper.make_node("Abs", [tensor], [magnitude]),
        helper.make_node("Cast", [magnitude], [single], to=TensorProto.FLOAT),
    ]
    source, reduced = single, [1]
    if along == "rows":
        # the rank of what a MatMul reads is known only when it runs
        shape, source = f"{result}.shape", f"{result}.rows"
        graph.initializer.append(tensor_from(shape, np.array([-1, _depth(weight)], np.int64)))
        nodes.append(helper.make_node("Reshape", [single, shape], [source]))
        reduced = [0]
    elif along == "maps":
        reduced = [0, *range(2, len(weight.shape))]
    if not reads_axes(model):
        return [*nodes, helper.make_node("ReduceMax", [source], [result], axes=reduced, keepdims=0)]
    graph.initializer.append(tensor_from(axes, np.array(reduced, np.int64)))
    return [*nodes, helper.make_node("ReduceMax", [source, axes], [result], keepdims=0)]


def _depth(weight: Weight) -> int:
    """Return how many products a MatMul or Gemm sums up."""
    return weight.shape[0 if weight.axis == 1 else 1]

"""The largest magnitude in each channel of what nodes read, worked out in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.edit.nodes import QuantizableNode, Weight
from qgraph._graph.edit.opsets import reads_axes
from qgraph._graph.edit.weave import weave_in
from qgraph._graph.io.models import tensor_from

_SUFFIX = "/qgraph.peaks"


def insert_peaks(model: onnx.ModelProto, nodes: Sequence[QuantizableNode]) -> dict[str, str]:
    """Add to `model`, for the activation of each node with a weight, its peaks.

    Returns activation → tensor [channels], float32; channels are what the node sums over.
    """
    made: list[onnx.NodeProto] = []
    found: dict[str, str] = {}
    for node in nodes:
        tensor = node.activations[0][1]
        if node.weight is not None and tensor not in found:
            found[tensor] = f"{tensor}{_SUFFIX}"
            made += _peaks(model, node.op_type, node.weight, tensor, found[tensor])
    weave_in(model.graph, made)
    return found


def _peaks(
    model: onnx.ModelProto, op_type: str, weight: Weight, tensor: str, result: str
) -> list[onnx.NodeProto]:
    graph = model.graph
    magnitude, single, axes = (f"{result}.{tag}" for tag in ("abs", "fp32", "axes"))
    nodes = [
        helper.make_node("Abs", [tensor], [magnitude]),
        helper.make_node("Cast", [magnitude], [single], to=TensorProto.FLOAT),
    ]
    source = single
    if op_type in ("MatMul", "Gemm"):
        # the rank of what a MatMul reads is known only when it runs
        shape, source = f"{result}.shape", f"{result}.rows"
        graph.initializer.append(tensor_from(shape, np.array([-1, _depth(weight)], np.int64)))
        nodes.append(helper.make_node("Reshape", [single, shape], [source]))
        reduced = [0]
    else:
        reduced = [0, *range(2, len(weight.shape))]
    if not reads_axes(model):
        return [*nodes, helper.make_node("ReduceMax", [source], [result], axes=reduced, keepdims=0)]
    graph.initializer.append(tensor_from(axes, np.array(reduced, np.int64)))
    return [*nodes, helper.make_node("ReduceMax", [source, axes], [result], keepdims=0)]


def _depth(weight: Weight) -> int:
    """Return how many products a MatMul or Gemm sums up."""
    return weight.shape[0 if weight.axis == 1 else 1]

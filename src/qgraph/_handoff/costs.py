"""MACs of every node that multiplies matrices, as the first sample makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from qgraph._graph.edit.weave import weave_in
from qgraph._graph.rules.qdq_graph import GEMMS, QdqGraph, attributes
from qgraph._graph.tensors import Feed
from qgraph._handoff.running import run_all

Shapes = Mapping[str, tuple[int, ...]]
_SUFFIX = "/qgraph.shape"


def macs_of(graph: QdqGraph, path: Path, feed: Feed) -> dict[str, int]:
    """Return node → multiply-accumulates where the model in `path` is run on `feed`: the same
    count as an evaluation's, products of activations included.

    Raises:
        InputError: onnxruntime cannot run it.
    """
    gemms = list(graph.of(*GEMMS))
    shapes = _measured(path, gemms, feed)
    found: dict[str, int] = {}
    for node in gemms:
        inner = _inner(graph, node, shapes)
        if inner is not None:
            found[node.name] = math.prod(shapes[node.output[0]]) * inner
    return found


def _measured(path: Path, gemms: list[onnx.NodeProto], feed: Feed) -> Shapes:
    """Return the shapes of what GEMMs read first and make."""
    tensors = dict.fromkeys(name for node in gemms for name in (node.input[0], node.output[0]))

    def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
        looking = onnx.ModelProto()
        looking.CopyFrom(model)
        looks = [helper.make_node("Shape", [name], [name + _SUFFIX]) for name in tensors]
        weave_in(looking.graph, looks)  # each right behind its tensor, which is not held for it
        del looking.graph.output[:]
        looking.graph.output.extend(
            helper.make_tensor_value_info(name + _SUFFIX, onnx.TensorProto.INT64, [None])
            for name in tensors
        )
        return looking

    if not tensors:
        return {}
    (seen,) = run_all(path, [feed], change=with_shapes)
    return {name: tuple(map(int, seen[name + _SUFFIX])) for name in tensors}


def _inner(graph: QdqGraph, node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the products summed for one element of the output."""
    if node.op_type == "MatMul":
        return shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        return shapes[node.input[0]][0 if attributes(node).get("transA", 0) else 1]
    weight = graph.shape_of(node.input[1])
    if weight is None or None in weight:
        return None
    sizes: list[int] = [size for size in weight if size is not None]
    if node.op_type == "Conv":
        return math.prod(sizes[1:])
    # ConvTranspose spreads each input over its kernel; per output element, by the stride
    strides: list[int] = attributes(node).get("strides", [1] * (len(sizes) - 2))
    return max(1, sizes[0] * math.prod(sizes[2:]) // math.prod(strides))

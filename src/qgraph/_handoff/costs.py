"""MACs of every node that multiplies matrices, as the first sample makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper

from qgraph._graph.edit.macs import multiply_accumulates
from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.edit.weave import weave_in
from qgraph._graph.rules.qdq_graph import QdqGraph
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
    tensors = [name for node in gemms for name in _tensors(node)]
    # a weight that is looked at while the model runs would be held to the end
    known = {name: _static_shape(graph, name) for name in tensors}
    shapes = {name: shape for name, shape in known.items() if shape is not None}
    shapes |= _measured(path, [name for name in known if name not in shapes], feed)
    return {
        node.name: multiply_accumulates(node.op_type, *(shapes[name] for name in _tensors(node)))
        for node in gemms
    }


def _tensors(node: onnx.NodeProto) -> tuple[str, str, str]:
    """Return both operands of a GEMM and its output."""
    return node.input[0], node.input[1], node.output[0]


def _static_shape(graph: QdqGraph, tensor: str) -> tuple[int, ...] | None:
    """Return the shape of what is the same in every run, None of anything else."""
    shape = graph.shape_of(tensor) if graph.is_constant(tensor) else None
    if shape is None or None in shape:
        return None
    return tuple(size for size in shape if size is not None)


def _measured(path: Path, names: Sequence[str], feed: Feed) -> Shapes:
    """Return the shape of each tensor when `feed` is run."""
    tensors = dict.fromkeys(names)

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

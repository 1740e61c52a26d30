"""MACs of every node that multiplies, as the first sample makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import helper

from qgraph._graph.bodies import copied
from qgraph._graph.edit.macs import counted_nodes, macs_by_shapes, tensors_to_know
from qgraph._graph.edit.macs_inside import macs_inside
from qgraph._graph.edit.weave import weave_in
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.tensors import Feed
from qgraph._handoff.running import run_all

Shapes = Mapping[str, tuple[int, ...]]
_SUFFIX = "/qgraph.shape"


def macs_of(graph: QdqGraph, path: Path, feed: Feed) -> dict[str, int]:
    """Return node → multiply-accumulates where the model in `path` is run on `feed`: the same
    count as an evaluation's, with all that multiplies, whether an engine has INT8 for it or not.

    Raises:
        InputError: onnxruntime cannot run it.
    """
    nodes = counted_nodes(graph.nodes)
    shapes: dict[str, Sequence[int]] = {
        name: tuple(tensor.dims) for name, tensor in graph.initializers.items()
    }
    asked = [name for name in tensors_to_know(nodes) if name not in shapes]
    shapes |= _measured(path, asked, feed)
    inside = macs_inside(graph.model, shapes)
    return {node.name: inside.get(node.name) or macs_by_shapes(node, shapes) or 0 for node in nodes}


def _measured(path: Path, tensors: Sequence[str], feed: Feed) -> Shapes:
    """Return the shapes that `tensors` have."""

    def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
        looking = copied(model)
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

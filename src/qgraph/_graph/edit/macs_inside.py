"""The multiply-accumulates in the bodies of nodes.

An If counts as its costlier branch; a Loop or Scan as its body, as often as that is known to run,
at least once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper, numpy_helper

from qgraph._graph.bodies import bodies_of, copied
from qgraph._graph.edit.macs import Shapes, costly_inside, macs_by_shapes
from qgraph._graph.index import GraphIndex, inferred, reads


def macs_inside(model: onnx.ModelProto, shapes: Shapes) -> dict[str, int]:
    """Return node → the MACs of its bodies, for the nodes of the main graph that hold any.

    `shapes` are those of what such nodes read; what they do not settle inside counts nothing.
    """
    holders = [node for node in model.graph.node if costly_inside(node)]
    if not holders:
        return {}
    alone = copied(model)
    del alone.graph.node[:], alone.graph.value_info[:], alone.graph.input[:], alone.graph.output[:]
    alone.graph.node.extend(holders)
    index = GraphIndex(model)
    weights, types = index.initializers, index.types
    for name in dict.fromkeys(name for node in holders for name in reads(node)):
        if name in shapes and name not in weights:
            kind = types.get(name, onnx.TensorProto.FLOAT)
            alone.graph.input.append(helper.make_tensor_value_info(name, kind, shapes[name]))
    _settle(alone.graph, shapes)
    graph = inferred(alone, values=True)
    return {node.name: _bodies(node, shapes, weights) for node in graph.node}


def _settle(graph: onnx.GraphProto, shapes: Shapes) -> None:
    """Give bodies the shapes of what they are given, and take away what they declare, in place."""
    for node in graph.node:
        given = _given(node)
        for body in bodies_of(node):
            del body.value_info[:]
            for value in body.output:
                value.type.tensor_type.ClearField("shape")
            states = list(body.input)[len(body.input) - len(given) :]
            for value, name in zip(states, given, strict=False):
                if name in shapes:
                    kind = value.type.tensor_type.elem_type
                    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shapes[name]))
            _settle(body, shapes)


def _given(node: onnx.NodeProto) -> list[str]:
    """Return the states that a Loop hands to its body, whose last inputs they are."""
    return list(node.input[2:]) if node.op_type == "Loop" else []


def _known(graph: onnx.GraphProto) -> dict[str, Sequence[int]]:
    """Return tensor → shape, of those of a graph that is known whole."""
    found: dict[str, Sequence[int]] = {item.name: tuple(item.dims) for item in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return found


def _bodies(node: onnx.NodeProto, shapes: Shapes, weights: Mapping[str, onnx.TensorProto]) -> int:
    totals = []
    for body in bodies_of(node):
        known = {**shapes, **_known(body)}
        alone = (macs_by_shapes(inner, known) or 0 for inner in body.node)
        totals.append(sum(alone) + sum(_bodies(inner, known, weights) for inner in body.node))
    return max(totals, default=0) * _times(node, shapes, weights)


def _times(node: onnx.NodeProto, shapes: Shapes, weights: Mapping[str, onnx.TensorProto]) -> int:
    """Return how often a body runs, as far as that is known; 1 where it is not."""
    if node.op_type == "Loop" and node.input and node.input[0] in weights:
        trips = numpy_helper.to_array(weights[node.input[0]])
        return max(1, int(trips.reshape(-1)[0])) if trips.size and trips.max() < 1 << 20 else 1
    if node.op_type == "Scan":
        axes = next((list(a.ints) for a in node.attribute if a.name == "scan_input_axes"), [0])
        scanned = shapes.get(node.input[-1], ())
        return max(1, scanned[axes[-1]]) if scanned else 1
    return 1

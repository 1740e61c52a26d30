"""Loading the weights that folding computes with."""

from __future__ import annotations

import onnx

from qgraph._graph.bodies import bodies_of, nodes_within
from qgraph._graph.io.weights import LAZY, SMALL, load, size_of


def load_foldable(model: onnx.ModelProto) -> None:
    """Load, in place, the weights that are small or read by nodes that only read constants."""
    folded = _read_by_constant_nodes(model.graph)
    for tensor in model.graph.initializer:
        if not (tensor.data_type in LAZY and size_of(tensor) >= SMALL) or tensor.name in folded:
            load(tensor)


def _read_by_constant_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the initializers that a node reads which reads nothing else."""
    weights = {tensor.name for tensor in graph.initializer}
    constant = set(weights)
    found: set[str] = set()
    for node in graph.node:
        read = [name for name in node.input if name]
        if constant.issuperset(read):
            found |= weights.intersection(read)
            constant |= set(node.output)
        for body in bodies_of(node):
            found |= weights & {name for inner in nodes_within(body.node) for name in inner.input}
    return found

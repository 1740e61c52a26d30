"""Weights that are a matrix with axes of size 1 in front, as the matrix they are."""

from __future__ import annotations

import onnx

from qgraph._graph.index import GraphIndex


def squeeze_weights(model: onnx.ModelProto) -> None:
    """Make [K, N] of constants [1, …, K, N] that MatMuls alone read, on the right, in place.

    Only where the left operand has as many axes: the product then has them without the weight's.
    """
    index = GraphIndex(model)
    for name, tensor in index.initializers.items():
        if len(tensor.dims) < 3 or set(tensor.dims[:-2]) != {1}:
            continue
        nodes = index.readers(name)
        axes = len(tensor.dims)
        alone = nodes and all(
            _is_product(n) and n.input[1] == name and index.rank_of(n.input[0]) >= axes
            for n in nodes
        )
        if alone and name not in index.outputs | index.inputs:
            tensor.dims[:] = tensor.dims[-2:]


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMul" and not node.domain and node.input[0] != node.input[1]

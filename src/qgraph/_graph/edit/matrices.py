"""Weights that are a matrix with axes of size 1 in front, as the matrix they are."""

from __future__ import annotations

from collections import defaultdict

import onnx

from qgraph._graph.edit.bodies import reads
from qgraph._graph.edit.element_types import ranks


def squeeze_weights(model: onnx.ModelProto) -> None:
    """Make [K, N] of constants [1, …, K, N] that MatMuls alone read, on the right, in place.

    Only where the left operand has as many axes: the product then has them without the weight's.
    """
    stacked = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) > 2 and set(tensor.dims[:-2]) == {1}
    }
    if not stacked:
        return
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in reads(node):
            if name in stacked:
                readers[name].append(node)
    products = {name: nodes for name, nodes in readers.items() if all(map(_is_product, nodes))}
    ends = {value.name for value in (*model.graph.output, *model.graph.input)}
    known = ranks(model) if products else {}
    for name, nodes in products.items():
        axes = len(stacked[name].dims)
        alone = all(n.input[1] == name and known.get(n.input[0], 0) >= axes for n in nodes)
        if alone and name not in ends:
            stacked[name].dims[:] = stacked[name].dims[-2:]


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMul" and not node.domain and node.input[0] != node.input[1]

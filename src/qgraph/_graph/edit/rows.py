"""A bias behind a quantized MatMul is spelled as a row, [1, N]: the same sum in other kernels.

On a tensor of fixed sizes and more than two axes, onnxruntime makes MatMul and Add of [N] one Gemm
with a Reshape on either side (MatMulAddFusion). The Reshape then stands between DequantizeLinear
and product, which costs the integer kernel, and from opset 21 on the session: the Q and DQ that
onnxruntime puts around the Reshape, it refuses itself. A row is not fused so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.bodies import tensor_names
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.index import GraphIndex

_SUFFIX = "/row"


def spell_biases_as_rows(model: onnx.ModelProto, nodes: Sequence[QuantizableNode]) -> None:
    """Make rows of the constants that are added to what the MatMuls in `nodes` make, in place.

    Whoever else reads such a constant goes on reading it as it was.
    """
    index = GraphIndex(model)
    adds = _adds(index, [node for node in nodes if node.op_type == "MatMul" and node.weight])
    if not adds:
        return
    taken = tensor_names(model.graph)
    rows: dict[str, str] = {}
    for output, add in adds.items():
        at = 1 - list(add.input).index(output)
        bias = index.initializers.get(add.input[at])
        if bias is None or len(bias.dims) != 1 or bias.dims[0] == 1:
            continue
        if index.rank_of(output) > 1:  # a product of rank 1 would become a matrix
            if bias.name not in rows:
                rows[bias.name] = _row(model.graph, bias, taken)
            add.input[at] = rows[bias.name]
    _drop_unread(model, rows)


def _adds(index: GraphIndex, products: Sequence[QuantizableNode]) -> dict[str, onnx.NodeProto]:
    """Return what a product makes → the Add that alone reads it."""
    inner = [node.output for node in products if node.output not in index.outputs]
    uses = {name: [node for node, _ in index.uses(name)] for name in inner}
    return {name: nodes[0] for name, nodes in uses.items() if [n.op_type for n in nodes] == ["Add"]}


def _row(graph: onnx.GraphProto, bias: onnx.TensorProto, taken: set[str]) -> str:
    row = graph.initializer.add()
    row.CopyFrom(bias)
    row.dims[:] = [1, *bias.dims]
    row.name = fresh_name(f"{bias.name}{_SUFFIX}", taken)
    return str(row.name)


def _drop_unread(model: onnx.ModelProto, rows: Mapping[str, str]) -> None:
    """Remove the constants that rows took the place of everywhere."""
    index = GraphIndex(model)
    for tensor in [index.initializers[name] for name in rows]:
        if not index.is_read(tensor.name):
            model.graph.initializer.remove(tensor)

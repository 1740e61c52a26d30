"""Biases behind quantized MatMuls, [N], as rows, [1, N]: the same sum in other kernels.

On a tensor of fixed sizes and more than two axes, onnxruntime makes MatMul and Add of [N] one Gemm
with a Reshape on either side (MatMulAddFusion). The Reshape then stands between DequantizeLinear
and product, which costs the integer kernel, and from opset 21 on the session: the Q and DQ that
onnxruntime puts around the Reshape, it refuses itself. A row is not fused so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.edit.bodies import reads
from qgraph._graph.edit.element_types import ranks
from qgraph._graph.edit.graft import tensor_names
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode

_SUFFIX = "/row"


def spell_biases_as_rows(model: onnx.ModelProto, nodes: Sequence[QuantizableNode]) -> None:
    """Make rows of the constants that are added to what the MatMuls in `nodes` make, in place.

    Whoever else reads such a constant goes on reading it as it was.
    """
    adds = _adds(model, [node for node in nodes if node.op_type == "MatMul" and node.weight])
    if not adds:
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known = ranks(model)
    taken = tensor_names(model.graph)
    rows: dict[str, str] = {}
    for output, add in adds.items():
        index = 1 - list(add.input).index(output)
        bias = constants.get(add.input[index])
        # a product of rank 1 would become a matrix
        if (
            bias is not None
            and len(bias.dims) == 1
            and bias.dims[0] > 1
            and known.get(output, 0) > 1
        ):
            if bias.name not in rows:
                rows[bias.name] = _row(model.graph, bias, taken)
            add.input[index] = rows[bias.name]
    _drop_unread(model.graph, rows)


def _adds(
    model: onnx.ModelProto, products: Sequence[QuantizableNode]
) -> Mapping[str, onnx.NodeProto]:
    """Return what a product makes → the Add that alone reads it."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in model.graph.output}
    found = {node.output: readers[node.output] for node in products if node.output not in outputs}
    return {
        name: nodes[0] for name, nodes in found.items() if [n.op_type for n in nodes] == ["Add"]
    }


def _row(graph: onnx.GraphProto, bias: onnx.TensorProto, taken: set[str]) -> str:
    row = graph.initializer.add()
    row.CopyFrom(bias)
    row.dims[:] = [1, *bias.dims]
    row.name = fresh_name(f"{bias.name}{_SUFFIX}", taken)
    taken.add(row.name)
    return str(row.name)


def _drop_unread(graph: onnx.GraphProto, rows: Mapping[str, str]) -> None:
    """Remove the constants that rows took the place of everywhere."""
    read = {value.name for value in graph.output}
    read |= {name for node in graph.node for name in reads(node)}
    for tensor in [item for item in graph.initializer if item.name in rows]:
        if tensor.name not in read:
            graph.initializer.remove(tensor)

"""Where the bias of a node stands, found by structure, and giving it other values.

| op                  | bias                                                              |
|---------------------|-------------------------------------------------------------------|
| Conv, ConvTranspose | the constant third operand                                        |
| Gemm                | the constant third operand, one value a column, where beta is 1   |
| MatMul              | the constant operand of the Add that alone reads its output       |

Behind quantized MatMuls a bias [N] is spelled as a row, [1, N]: the same sum in other kernels. On a
tensor of fixed sizes and more than two axes, onnxruntime makes MatMul and Add of [N] one Gemm with
a Reshape on either side (MatMulAddFusion). The Reshape then stands between DequantizeLinear and
product, which costs the integer kernel, and from opset 21 on the session: the Q and DQ that
onnxruntime puts around the Reshape, it refuses itself. A row is not fused so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.bodies import copied, tensor_names
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import CONVOLUTIONS, QuantizableNode
from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.models import tensor_from
from qgraph._graph.tensors import Array


@dataclass(frozen=True, slots=True)
class Bias:
    """Input `index` of `reader` is the constant `tensor`, of `shape`: one value a channel."""

    reader: str
    index: int
    tensor: str
    shape: tuple[int, ...]


def channel_axis(node: QuantizableNode) -> int:
    """Return the axis of the output of `node` that its output channels lie on."""
    return 1 if node.op_type in CONVOLUTIONS else -1


def find_biases(model: onnx.ModelProto, nodes: Sequence[QuantizableNode]) -> dict[str, Bias]:
    """Return node → its bias; a node without one is left out."""
    index = GraphIndex(model)
    found: dict[str, Bias] = {}
    for node in nodes:
        if node.weight is None:
            continue
        place: tuple[onnx.NodeProto, int] | None = (index.by_name[node.name], 2)
        if node.op_type == "MatMul":
            alone = node.output not in index.outputs
            place = _added(node.output, index.readers(node.output)) if alone else None
        bias = _bias(place, index.initializers) if place else None
        if bias is not None and _fits(bias, node):
            found[node.name] = bias
    return found


def _fits(bias: Bias, node: QuantizableNode) -> bool:
    """Return whether a bias has one value a channel; a single one is for all channels together."""
    if node.op_type in CONVOLUTIONS or node.weight is None or node.weight.axis is None:
        return True
    return bias.shape[-1] == node.weight.shape[node.weight.axis]


def _added(output: str, readers: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto, int] | None:
    """Return the Add that alone reads `output`, and its other input."""
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    return readers[0], 1 - list(readers[0].input).index(output)


def _bias(
    place: tuple[onnx.NodeProto, int], constants: Mapping[str, onnx.TensorProto]
) -> Bias | None:
    reader, index = place
    tensor = constants.get(reader.input[index]) if len(reader.input) > index else None
    shape = tuple(tensor.dims) if tensor is not None else ()
    # Gemm's may be a matrix, an Add's anything that can be broadcast
    if not shape or not set(shape[:-1]) <= {1}:
        return None
    scaled = attributes(reader).get("beta", 1) != 1
    return None if scaled else Bias(reader.name, index, reader.input[index], shape)


def with_biases(model: onnx.ModelProto, values: Mapping[Bias, Array]) -> onnx.ModelProto:
    """Return a copy of `model` in which biases have other values; constants stay as they are for
    whoever else reads them.
    """
    changed = copied(model)
    nodes = {node.name: node for node in changed.graph.node}
    taken = tensor_names(changed.graph)
    for bias, array in values.items():
        name = fresh_name(f"{bias.tensor}/corrected", taken)
        changed.graph.initializer.append(tensor_from(name, array))
        nodes[bias.reader].input[bias.index] = name
    return changed


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

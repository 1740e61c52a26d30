"""What INC cannot take, found before it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.index import GraphIndex
from qgraph._graph.keep import Keep

_PROTOBUF_LIMIT = 2 << 30


def eligible(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], where: str
) -> tuple[list[QuantizableNode], list[Keep]]:
    """Return the candidates INC can be asked about, and the others.

    Raises:
        InputError: the graph is not float32.
        LimitError: the weights reach 2 GB, where INC compares a file with itself.
    """
    index = GraphIndex(model)
    tensors = index.initializers
    total = sum(len(tensor.raw_data) for tensor in tensors.values())
    if total >= _PROTOBUF_LIMIT:
        raise LimitError(
            f"the weights take {total >> 20} MiB; from 2048 MiB on Intel Neural Compressor compares"
            " a file with itself, and every score would be 0",
            where=where,
            hint="Use --engine auto, which takes an engine of qgraph's own.",
        )
    taken: list[QuantizableNode] = []
    refused: list[Keep] = []
    for node in nodes:
        weight = tensors.get(node.weight.tensor) if node.weight else None
        if weight is not None and weight.data_type != onnx.TensorProto.FLOAT:
            raise InputError(
                "a weight is float16; Intel Neural Compressor quantizes float32 graphs only",
                where=f"{where}: node {node.name!r}",
                hint="Export with --dtype fp32, or use --engine auto.",
            )
        inputs = index.by_name[node.name].input
        computed = len(inputs) > 2 and inputs[2] not in index.initializers
        if node.op_type == "Conv" and computed:
            reason = "INC crashes on a convolution whose bias is not constant"
            refused.append(Keep(node.name, reason))
        else:
            taken.append(node)
    return taken, refused

"""R10 to R13, R22: Q/DQ where it builds but loses what it was for."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qgraph._graph.edit.nodes import ATTENTION, GEMMS, Softmaxes
from qgraph._graph.edit.residual import residual
from qgraph._graph.rules.finding import Breach
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph

_HEAD_SIZES, _LONGEST = (16, 32, 64), 512


def is_product(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """Return whether a MatMul multiplies two activations, as attention and scans do."""
    if node.op_type != "MatMul" or len(node.input) < 2:
        return False
    return not any(graph.is_constant(name) for name in node.input[:2])


def both_inputs_are_quantized(graph: QdqGraph) -> Iterator[Breach]:
    """R10: INT8 needs Q/DQ on both inputs of a GEMM."""
    for node in graph.of(*GEMMS):
        if len(node.input) < 2 or is_product(graph, node):
            continue
        sides = [graph.is_dequantized(name) for name in node.input[:2]]
        if sides[0] != sides[1]:
            missing = 1 if sides[0] else 0
            what = "weight" if graph.is_constant(node.input[missing]) else "data"
            yield Breach(
                node.name,
                node.input[missing],
                f"its {what} is not quantized, so it runs in float and Q/DQ only costs",
                "Quantize both inputs, or neither.",
            )


def tensor_has_one_quantizer(graph: QdqGraph) -> Iterator[Breach]:
    """R11: one Q per tensor, shared by its readers; readers in two formats take two."""
    shared: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.of(QUANTIZE):
        shared.setdefault(node.input[0], []).append(node)
    for tensor, quantizers in shared.items():
        for node in quantizers[1:]:
            yield Breach(
                node.name,
                tensor,
                f"the tensor has {len(quantizers)} QuantizeLinears; each further one costs a"
                " reformat",
                "Share one Q and one DQ among the readers, all of them in one format.",
            )


def residual_add_has_one_branch(graph: QdqGraph) -> Iterator[Breach]:
    """R12: at a residual Add, Q/DQ stands on the shortcut branch only."""
    for node in graph.of("Add"):
        sides = [graph.comes_from(name, DEQUANTIZE) for name in node.input]
        branches = residual(graph, node) if any(sides) else None
        if branches is None or not sides[branches.deep]:
            continue
        tensor = node.input[branches.deep]
        if sides[branches.shortcut]:
            yield _residual(node, tensor, "both inputs of the Add are quantized")
        else:
            which = f"the branch of {branches.gemm!r}" if branches.gemm else "the long branch"
            yield _residual(node, tensor, f"{which} is quantized, not the shortcut")


def _residual(node: onnx.NodeProto, tensor: str, what: str) -> Breach:
    return Breach(
        node.name,
        tensor,
        f"{what}; the GEMM before it cannot take the Add in, and the sum loses precision",
        "Quantize the shortcut branch only, in a CNN; neither in a transformer.",
    )


def attention_product_is_float(graph: QdqGraph) -> Iterator[Breach]:
    """R13: no INT8 on attention products, unless head size and length allow the fused kernel."""
    softmaxes = Softmaxes.of(graph)
    for node in graph.of("MatMul"):
        if not is_product(graph, node) or softmaxes.why_float(node) != ATTENTION:
            continue
        quantized = [name for name in node.input[:2] if graph.is_dequantized(name)]
        if quantized and not _fits_fused_attention(graph, node):
            yield Breach(
                node.name,
                quantized[0],
                "a product of two activations is quantized, which keeps attention from being fused"
                f" (INT8 kernels exist for head size 16, 32, 64 and length up to {_LONGEST})",
                "Leave attention products float.",
            )


def _fits_fused_attention(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    shapes = [graph.shape_of(_before_q(graph, name)) for name in node.input[:2]]
    if any(shape is None or len(shape) < 2 for shape in shapes):
        return False
    left, right = (shape or () for shape in shapes)
    rows, inner, columns = left[-2], left[-1], right[-1]
    # Q·Kᵀ is [length, head]·[head, length]; P·V is [length, length]·[length, head]
    for head, lengths in ((inner, (rows, columns)), (columns, (rows, inner))):
        if head in _HEAD_SIZES and all(size is not None and size <= _LONGEST for size in lengths):
            return True
    return False


def _before_q(graph: QdqGraph, tensor: str) -> str:
    """Return the float tensor that a DQ's output stands for."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != DEQUANTIZE:
        return tensor
    before = graph.producer.get(node.input[0])
    return before.input[0] if before is not None and before.op_type == QUANTIZE else tensor


def quantizer_is_used(graph: QdqGraph) -> Iterator[Breach]:
    """R22: no Q or DQ whose output nobody reads."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        name = node.output[0]
        if not graph.readers(name) and name not in graph.outputs:
            yield Breach(
                node.name,
                name,
                "nothing reads what it makes",
                "Remove it; --fix does.",
                fixable=True,
            )

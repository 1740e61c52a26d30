"""R23: FP8 where TensorRT has kernels for it.

What has none is taken from NVIDIA's own quantizer for ONNX (ModelOpt, `onnx/quantization/fp8.py`),
which leaves the same nodes float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.rules.finding import Breach
from qgraph._graph.rules.numbers import quantized_type
from qgraph._graph.rules.qdq_graph import QdqGraph, type_name

_ALIGNED = 16
"""Channels that a convolution's kernels take at once."""
_LARGEST_FILTER = 32


def without_fp8_kernel(op_type: str, weight: Sequence[int | None] | None) -> str:
    """Return why a node has no FP8 kernel, '' where nothing speaks against one.

    `weight`: its shape [M, C/groups, k…], where it is known.
    """
    if op_type == "ConvTranspose":
        return "transposed convolutions have no FP8 kernels"
    if op_type != "Conv" or weight is None or None in weight or len(weight) < 3:
        return ""  # a convolution by a weight of lower rank does not run; other checks say so
    outputs, inputs, *kernel = (size or 0 for size in weight)
    if min(outputs, inputs) < _ALIGNED or outputs % _ALIGNED != inputs % _ALIGNED:
        return (
            f"{inputs} input and {outputs} output channels: FP8 convolutions take at least"
            f" {_ALIGNED} of each, with the same remainder by {_ALIGNED}"
        )
    if math.prod(kernel) > _LARGEST_FILTER:
        return f"a filter of {math.prod(kernel)} taps: FP8 convolutions take {_LARGEST_FILTER}"
    return ""


def fp8_has_a_kernel(graph: QdqGraph) -> Iterator[Breach]:
    """R23: both operands of an FP8 GEMM are FP8, and it is of a kind that has kernels."""
    for node in graph.of(*GEMMS):
        kinds = [_kind(graph, name) for name in node.input[:2]]
        if onnx.TensorProto.FLOAT8E4M3FN not in kinds:
            continue
        if 0 not in kinds and len(set(kinds)) > 1:
            names = [type_name(kind) for kind in kinds]
            problem = f"its data is {names[0]}, its weight {names[1]}: no kernel takes both"
        else:
            problem = without_fp8_kernel(node.op_type, graph.shape_of(node.input[1]))
        if problem:
            yield Breach(
                node.name,
                node.input[1],
                f"{problem}; it runs in float, or does not build",
                "Leave it float, or quantize it to INT8.",
            )


def _kind(graph: QdqGraph, tensor: str) -> int:
    """Return the type an operand is quantized to, 0 where it is float."""
    dequantizer = graph.dequantizer_of(tensor)
    return 0 if dequantizer is None else quantized_type(graph, dequantizer)

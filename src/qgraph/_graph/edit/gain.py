"""What INT8 makes no faster: sizes that leave tensor cores idle.

An engine multiplies INT8 in tiles of 16 or 32 channels: a tile that is not filled is computed all
the same. A convolution with few channels a group, a depthwise one above all, waits for memory, and
so does a product of one row. Rounded for nothing, such nodes cost accuracy, and being small they
often hurt little, so that a careful profile would hold them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx

from qgraph._graph.edit.nodes import MATMULS
from qgraph._graph.index import GraphIndex, attributes

FEWEST = 16
"""Sizes below it gain nothing: K and N of a GEMM, channels of a convolution."""


def without_gain(graph: GraphIndex, node: onnx.NodeProto) -> str:
    """Return why INT8 makes a MatMul, Gemm, Conv or ConvTranspose no faster, '' where it may."""
    shape = graph.shape_of(node.input[1])
    if shape is None or len(shape) < 2 or None in shape:
        return ""
    small = _too_few(node, [size or 0 for size in shape])
    if small:
        return f"{small}, below {FEWEST}: INT8 gains nothing over float"
    if _rows(node, graph.shape_of(node.output[0])) == 1:
        return "it computes one row and waits for its weight: INT8 gains nothing over float"
    return ""


def _too_few(node: onnx.NodeProto, shape: Sequence[int]) -> str:
    """Return which size is too small, '' where none is."""
    settings = attributes(node)
    names = ("input channels", "output channels")
    if node.op_type == "Conv":
        outputs, inputs = shape[0], shape[1]
        if list(settings.get("strides", ())) == list(shape[2:]):
            inputs = prod(shape[1:])  # patches side by side, each a row: a GEMM in all but name
    elif node.op_type == "ConvTranspose":
        inputs, outputs = shape[:2]
    else:
        names = ("K", "N")
        inputs, outputs = shape[-2:][::-1] if settings.get("transB", 0) else shape[-2:]
    # an attribute that an operator does not have may hold anything
    groups = int(settings.get("group", 1)) if node.op_type.startswith("Conv") else 1
    if groups > 1:
        whole = outputs if node.op_type == "Conv" else inputs
        each = min(whole // groups, inputs if node.op_type == "Conv" else outputs)
        return f"{groups} groups of {each} channels" if each < FEWEST else ""
    for size, name in zip((inputs, outputs), names, strict=True):
        if size < FEWEST:
            return f"{name} is {size}"
    return ""


def _rows(node: onnx.NodeProto, output: Sequence[int | None] | None) -> int | None:
    """Return the rows of the product, None where they are not known.

    Of a convolution, positions of the map: where there is one, a batch of any size counts as one.
    """
    if not output:
        return None
    sizes = output[:-1] if node.op_type in MATMULS else [output[0] or 1, *output[2:]]
    return None if None in sizes else prod(size or 1 for size in sizes)

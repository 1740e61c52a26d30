"""MACs of every node that multiplies matrices, from shapes alone: nothing runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from graph.rules.qdq_graph import GEMMS, QdqGraph, attributes

Shapes = Mapping[str, tuple[int, ...]]


def macs_of(graph: QdqGraph, sizes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return node → multiply-accumulates where inputs have these `sizes` (input → shape).

    What shape inference cannot tell counts as 1 (batch and heads of attention products), so a
    product may be underestimated; a node whose output is unknown is absent.
    """
    shapes = _shapes(graph, sizes)
    found: dict[str, int] = {}
    for node in graph.of(*GEMMS):
        inner = _inner(graph, node, shapes)
        if inner is not None and node.output[0] in shapes:
            found[node.name] = math.prod(shapes[node.output[0]]) * inner
    return found


def _inner(graph: QdqGraph, node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the products summed for one element of the output."""
    weight = graph.shape_of(node.input[1]) or shapes.get(node.input[1])
    if weight is None or None in weight:
        data = shapes.get(node.input[0])
        return data[-1] if data and node.op_type == "MatMul" else None
    sizes: list[int] = [size for size in weight if size is not None]
    if node.op_type == "MatMul":
        return sizes[-2] if len(sizes) > 1 else sizes[0]
    if node.op_type == "Gemm":
        return sizes[1 if attributes(node).get("transB", 0) else 0]
    if node.op_type == "Conv":
        return math.prod(sizes[1:])
    # ConvTranspose spreads each input over its kernel; per output element, by the stride
    strides: list[int] = attributes(node).get("strides", [1] * (len(sizes) - 2))
    return max(1, sizes[0] * math.prod(sizes[2:]) // math.prod(strides))


def _shapes(graph: QdqGraph, sizes: Mapping[str, Sequence[int]]) -> Shapes:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    # what was inferred for dynamic sizes would win over these
    del model.graph.value_info[:]
    for value in model.graph.input:
        if value.name in sizes:
            element = value.type.tensor_type.elem_type
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(value.name, element, list(sizes[value.name]))
            )
    names: dict[str, int] = {}
    for value in graph.model.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False
        ):
            if dim.dim_param:
                names[dim.dim_param] = size
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_value = names[dim.dim_param]
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # without shapes there is no estimate, and everything else still holds
        return {}
    values = (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
    return {
        value.name: tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in values
    }

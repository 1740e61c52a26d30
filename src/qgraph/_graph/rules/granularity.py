"""R4, R5, R6, R8: along which axis, in which type, on which tensors."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.index import FLOATS, HALF, attributes
from qgraph._graph.rules.finding import Breach, Severity
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph, scale_of, type_name


def activation_is_per_tensor(graph: QdqGraph) -> Iterator[Breach]:
    """R4: a scale of several entries belongs to a constant weight."""
    for node in graph.quantizers():
        scale = graph.constant(scale_of(node))
        if scale is None or scale.size <= 1 or graph.is_constant(node.input[0]):
            continue
        yield Breach(
            node.name,
            scale_of(node),
            f"an activation has {scale.size} scales; the parser takes one per activation",
            "Quantize activations per tensor, weights alone per axis.",
        )


def per_axis_fits_the_weight(graph: QdqGraph) -> Iterator[Breach]:
    """R5: a weight's scales are one per output channel, along the axis its reader has them on."""
    for node in graph.quantizers():
        scale = graph.constant(scale_of(node))
        if scale is None or scale.size <= 1 or not graph.is_constant(node.input[0]):
            continue
        problem = _axis_problem(graph, node, scale.shape)
        if problem:
            yield Breach(
                node.name,
                scale_of(node),
                problem,
                "Scales of a weight go along its output channels: Conv axis 0, MatMul [K,N] and"
                " Gemm axis 1, Gemm with transB axis 0.",
            )


def _axis_problem(graph: QdqGraph, node: onnx.NodeProto, scales: tuple[int, ...]) -> str:
    if attributes(node).get("block_size"):
        return ""  # blocked: other shapes hold
    shape = graph.shape_of(node.input[0])
    if len(scales) != 1:
        return f"the scale has shape {list(scales)}, expected one dimension"
    if shape is None:
        return ""
    return _wrong_axis(graph, node, scales[0], shape)


def _wrong_axis(
    graph: QdqGraph, node: onnx.NodeProto, count: int, shape: tuple[int | None, ...]
) -> str:
    axis = int(attributes(node).get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis < len(shape):
        return f"axis {axis} of a weight of shape {list(shape)}"
    if shape[axis] is not None and shape[axis] != count:
        return f"{count} scales along axis {axis}, which has {shape[axis]} entries"
    wanted = _channel_axis(graph, node, len(shape))
    if wanted is not None and wanted != axis:
        return f"the scales go along axis {axis}, but the reader's output channels along {wanted}"
    return ""


def _channel_axis(graph: QdqGraph, node: onnx.NodeProto, rank: int) -> int | None:
    """Return the axis of the weight that holds its reader's output channels, None if unclear."""
    tensor, order = node.output[0], list(range(rank))
    for _ in range(3):  # Q, DQ and a Transpose at most stand between a weight and its reader
        readers = graph.uses(tensor)
        if len(readers) != 1:
            break
        reader, index = readers[0]
        if reader.op_type in GEMMS:
            return order[_axis_of(reader)] if index == 1 and _axis_of(reader) < rank else None
        if reader.op_type == "Transpose":
            perm = attributes(reader).get("perm", list(reversed(range(rank))))
            order = [order[step] for step in perm]
        elif reader.op_type != DEQUANTIZE:
            break
        tensor = reader.output[0]
    found = {_axis_of(reader) for reader, index in graph.uses(tensor) if index == 1
             and reader.op_type in GEMMS}  # fmt: skip
    return order[found.pop()] if len(found) == 1 else None


def _axis_of(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and attributes(node).get("transB", 0):
        return 0
    return 1


def scale_has_the_type_of_the_tensor(graph: QdqGraph) -> Iterator[Breach]:
    """R6: a scale has the float type of what it scales, so that no casts and no mix arise."""
    for node in graph.of(QUANTIZE):
        found, wanted = graph.type_of(scale_of(node)), graph.type_of(node.input[0])
        if found in FLOATS and wanted in FLOATS and found != wanted:
            yield _mixed(graph, node, found, wanted)
        elif _widens(graph, node.input[0]):
            yield _cast(node)
    for node in graph.of(DEQUANTIZE):
        found, wanted = graph.type_of(scale_of(node)), _type_wanted(graph, node)
        if found in FLOATS and wanted and found != wanted:
            yield _mixed(graph, node, found, wanted)


def _type_wanted(graph: QdqGraph, node: onnx.NodeProto) -> int:
    """Return the float type a DQ should write: its Q's input, or its readers' other operand."""
    made_by = graph.producer.get(node.input[0])
    if made_by is not None and made_by.op_type == QUANTIZE:
        known = graph.type_of(made_by.input[0])
        return known if known in FLOATS else 0
    for reader, index in graph.uses(node.output[0]):
        if reader.op_type not in GEMMS or index > 1:
            continue
        other = graph.producer.get(reader.input[1 - index])
        source = reader.input[1 - index]
        if other is not None and other.op_type == DEQUANTIZE:
            before = graph.producer.get(other.input[0])
            source = before.input[0] if before is not None and before.input else ""
        known = graph.type_of(source)
        if known in FLOATS:
            return known
    return 0


def _widens(graph: QdqGraph, tensor: str) -> bool:
    """Return whether a tensor is fp16 cast to fp32 for quantizing alone: what is made of it is cast
    back. Where it stays fp32, because it would overflow, that was meant.
    """
    made_by = graph.producer.get(tensor)
    if made_by is None or made_by.op_type != "Cast":
        return False
    if graph.type_of(made_by.input[0]) not in HALF or graph.type_of(tensor) in HALF:
        return False
    return all(_is_cast_back(graph, name) for name in _products_of(graph, tensor))


def _products_of(graph: QdqGraph, tensor: str) -> list[str]:
    """Return what GEMMs make of a tensor through its Q/DQ."""
    quantizers = [node for node in graph.readers(tensor) if node.op_type == QUANTIZE]
    dequantizers = [node for q in quantizers for node in graph.readers(q.output[0])]
    return [
        node.output[0]
        for dq in dequantizers
        for node in graph.readers(dq.output[0])
        if node.op_type in GEMMS
    ]


def _is_cast_back(graph: QdqGraph, tensor: str) -> bool:
    readers = graph.uses(tensor)
    casts = [node for node, _ in readers if node.op_type == "Cast"]
    return len(casts) == len(readers) and all(
        graph.type_of(node.output[0]) in HALF for node in casts
    )


def _cast(node: onnx.NodeProto) -> Breach:
    return Breach(
        node.name,
        node.input[0],
        "a tensor is cast to FLOAT only to be quantized, which leaves an fp32 island",
        "Quantize the fp16 tensor itself, with an fp16 scale.",
        severity=Severity.WARNING,
    )


def _mixed(graph: QdqGraph, node: onnx.NodeProto, found: int, wanted: int) -> Breach:
    return Breach(
        node.name,
        scale_of(node),
        f"the scale is {type_name(found)} in a {type_name(wanted)} graph; a strongly typed"
        " network mixes no types",
        f"Write the scale as {type_name(wanted)}; --fix does where no scale becomes 0.",
        fixable=graph.constant(scale_of(node)) is not None,
        wanted=wanted,
    )


def scalar_is_not_quantized(graph: QdqGraph) -> Iterator[Breach]:
    """R8: nothing without axes is quantized."""
    for node in graph.quantizers():
        if graph.shape_of(node.input[0]) != ():
            continue
        yield Breach(
            node.name,
            node.input[0],
            "a tensor without axes is quantized; the parser reshapes it and back",
            "Leave scalars float.",
        )

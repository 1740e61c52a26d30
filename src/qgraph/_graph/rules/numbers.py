"""R1, R2, R3: scales and zero points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from qgraph._graph.index import FLOATS, attributes
from qgraph._graph.rules.finding import Breach, Severity
from qgraph._graph.rules.qdq_graph import (
    DEQUANTIZE,
    QUANTIZE,
    QdqGraph,
    scale_of,
    type_name,
    zero_point_of,
)

_AGAIN = "Quantize the model again with qgraph quantize."


def scale_is_positive(graph: QdqGraph) -> Iterator[Breach]:
    """R1: a scale is a float constant whose every element is above zero and finite."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        name = scale_of(node)
        problem = _scale_problem(graph, name)
        if problem:
            yield Breach(
                node.name,
                name,
                f"{problem}; the parser stops there",
                "Calibrate on data that reaches this tensor, and write a float constant above"
                " zero; in fp16, values below 6e-8 become 0.",
            )


def _scale_problem(graph: QdqGraph, name: str) -> str:
    if not name:
        return "the node has no scale"
    values = graph.constant(name)
    if values is None:
        return "the scale is computed at run time"
    if graph.type_of(name) not in FLOATS:
        return f"the scale is {type_name(graph.type_of(name))}, expected a float type"
    array = np.asarray(values, np.float64)
    bad = array[~(np.isfinite(array) & (array > 0))]
    return f"the scale holds {bad.flat[0]:g}" if bad.size else ""


def zero_point_is_zero(graph: QdqGraph) -> Iterator[Breach]:
    """R2: a zero point is all zero, with as many entries as the scale."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        name = zero_point_of(node)
        values = graph.constant(name) if name else None
        if not name or _is_int32(graph, node):
            continue
        if values is None:
            problem = "the zero point is computed at run time"
        elif np.asarray(values, np.float64).any():
            first = np.asarray(values, np.float64)
            problem = f"the zero point holds {first[first != 0].flat[0]:g} (asymmetric)"
        else:
            problem = _shape_problem(graph, node)
        if problem:
            yield Breach(
                node.name,
                name,
                f"{problem}; TensorRT knows symmetric quantization alone",
                "Quantize symmetrically: zero points 0, one for each scale.",
            )


def _shape_problem(graph: QdqGraph, node: onnx.NodeProto) -> str:
    scale, zero = graph.constant(scale_of(node)), graph.constant(zero_point_of(node))
    if scale is None or zero is None or scale.shape == zero.shape:
        return ""
    return f"the zero point has shape {list(zero.shape)}, the scale {list(scale.shape)}"


def zero_point_is_int8(graph: QdqGraph) -> Iterator[Breach]:
    """R3: a zero point is there and of a type that TensorRT takes: INT8, or FP8 and INT4."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        name = zero_point_of(node)
        if name:
            found = graph.type_of(name)
            if found in _WRONG and not _is_int32(graph, node):
                yield _wrong_type(node, name, found)
        elif not _is_int32(graph, node):
            finding = _missing(graph, node)
            if finding is not None:
                yield finding


_WRONG = (
    *(onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16),
    *(onnx.TensorProto.FLOAT8E4M3FNUZ, onnx.TensorProto.FLOAT8E5M2),
    onnx.TensorProto.FLOAT8E5M2FNUZ,
)
_UNSIGNED = (onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT4)


def _wrong_type(node: onnx.NodeProto, name: str, found: int) -> Breach:
    reason, remedy = (
        "the parser's table takes INT8, and TensorRT reads other bytes as INT8",
        "Quantize to signed INT8 (onnxruntime: activation_type=QuantType.QInt8).",
    )
    if type_name(found).startswith("FLOAT8"):
        reason = "of the FP8 types TensorRT knows FLOAT8E4M3FN alone"
        remedy = "Quantize to E4M3 without infinities (FLOAT8E4M3FN)."
    reason = f"the quantized type is {type_name(found)}; {reason}"
    return Breach(node.name, name, reason, remedy)


def quantized_type(graph: QdqGraph, node: onnx.NodeProto) -> int:
    """Return the integer type a Q writes or a DQ reads, 0 where nothing says it."""
    if zero_point_of(node):
        return graph.type_of(zero_point_of(node))
    if node.op_type == DEQUANTIZE:
        made_by = graph.producer.get(node.input[0])
        if made_by is not None and made_by.op_type == QUANTIZE:
            return quantized_type(graph, made_by)
        return graph.type_of(node.input[0])
    return int(attributes(node).get("output_dtype", 0)) or int(onnx.TensorProto.UINT8)


def _missing(graph: QdqGraph, node: onnx.NodeProto) -> Breach | None:
    """Return what a missing zero point means: nothing where the type is known to be signed."""
    found = quantized_type(graph, node)
    if found in _UNSIGNED:
        if node.op_type == DEQUANTIZE and graph.comes_from(node.input[0], QUANTIZE):
            return None  # said once, at the Q
        return Breach(
            node.name,
            node.output[0],
            "no zero point: ONNX says UINT8, TensorRT reads INT8, so values differ silently",
            f"An explicit INT8 zero point changes what ONNX computes here. {_AGAIN}",
            severity=Severity.WARNING,
        )
    return Breach(
        node.name,
        node.output[0],
        f"no zero point; it is {type_name(found)} here, but readers differ on what none means",
        "Write it out; --fix does.",
        fixable=True,
        severity=Severity.WARNING,
    )


def _is_int32(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """Return whether a DQ reads int32, which R7 is about."""
    return node.op_type == DEQUANTIZE and graph.type_of(node.input[0]) == onnx.TensorProto.INT32

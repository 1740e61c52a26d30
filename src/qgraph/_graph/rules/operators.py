"""R7, R9, R14, R15, R16: operators, types and opsets that the parser does not take."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.index import ONNX
from qgraph._graph.rules.finding import Breach, Severity, Target
from qgraph._graph.rules.numbers import quantized_type
from qgraph._graph.rules.qdq_graph import (
    DEQUANTIZE,
    QUANTIZE,
    QdqGraph,
    scale_of,
    type_name,
    zero_point_of,
)
from qgraph._graph.rules.support import (
    OPSETS,
    came_too_late,
    is_missing_from_some,
    label,
    operator_table,
)

QUANTIZED_OPS = (
    *("QLinearMatMul", "QLinearConv", "QLinearAdd", "QLinearMul", "QGemm"),
    *("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"),
)
_FP8_OPSET = 19
_ANY_DATA = ("If", "Loop", "Scan", "Shape", "Size", "Constant", QUANTIZE, DEQUANTIZE)
"""Operators whose first input says nothing: bodies, shapes, and Q/DQ, which have own rules."""


def bias_is_float(graph: QdqGraph) -> Iterator[Breach]:
    """R7: no DequantizeLinear of int32, which quantizers make of a bias."""
    for node in graph.of(DEQUANTIZE):
        if graph.type_of(node.input[0]) == onnx.TensorProto.INT32:
            yield Breach(
                node.name,
                node.input[0],
                "a DequantizeLinear of INT32 (a quantized bias); the parser takes none",
                "Leave biases float (onnxruntime: extra_options QuantizeBias=False).",
            )


def no_quantized_operators(graph: QdqGraph) -> Iterator[Breach]:
    """R9: Q/DQ around float operators, no operators on integers."""
    for node in graph.nodes:
        if node.op_type in QUANTIZED_OPS:
            yield Breach(
                node.name,
                "",
                f"{node.op_type} computes on integers; the parser knows Q/DQ around float"
                " operators alone",
                "Quantize in Q/DQ form (onnxruntime: quant_format=QuantFormat.QDQ), statically.",
            )


def weight_is_an_initializer(graph: QdqGraph) -> Iterator[Breach]:
    """R14: integer weights, scales and zero points are initializers, no Constant nodes."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        if node.op_type == DEQUANTIZE and graph.comes_from(node.input[0], "Constant"):
            yield Breach(
                node.name,
                node.input[0],
                "its integer weight is a Constant node; the parser has no INT8 constants",
                "Make it an initializer; --fix does.",
                fixable=True,
            )
        for name in (scale_of(node), zero_point_of(node)):
            if name and graph.comes_from(name, "Constant"):
                yield Breach(
                    node.name,
                    name,
                    "a scale or zero point is a Constant node, which not every reader looks into",
                    "Make it an initializer; --fix does.",
                    fixable=True,
                    severity=Severity.WARNING,
                )


def opset_is_in_range(
    graph: QdqGraph, target: Target, plugins: Collection[str]
) -> Iterator[Breach]:
    """R15: an opset that the parser takes, and no domain but ONNX's, save declared plugins."""
    oldest, newest = OPSETS[target]
    if graph.outer is None and not oldest <= graph.opset <= newest:
        yield Breach(
            "",
            "",
            f"the model has opset {graph.opset}; {target} takes {oldest} to {newest}",
            "Export it again, or convert it with onnx.version_converter.",
        )
    kind = onnx.TensorProto.FLOAT8E4M3FN
    pairs = graph.of(QUANTIZE, DEQUANTIZE)
    first = next((node for node in pairs if quantized_type(graph, node) == kind), None)
    if first is not None and graph.opset < _FP8_OPSET:
        yield Breach(
            first.name,
            "",
            f"FP8 in a model of opset {graph.opset}; ONNX knows it from {_FP8_OPSET} on",
            "Convert the float model with onnx.version_converter, and quantize it again.",
        )
    known = {function.name for function in graph.model.functions}
    for node in graph.nodes:
        if node.domain in ONNX or node.op_type in plugins or node.op_type in known:
            continue
        yield Breach(
            node.name,
            "",
            f"{node.op_type} of the domain {node.domain!r} is no ONNX operator",
            f"Declare it with --plugin {node.op_type} if the target has one; else replace it.",
        )


def operator_is_in_the_table(
    graph: QdqGraph, target: Target, plugins: Collection[str]
) -> Iterator[Breach]:
    """R16: an operator that the parser's table lists, on data of a type listed for it; of an
    Attention, in the one form that it reads.
    """
    for node in graph.nodes:
        if node.domain not in ONNX or node.op_type in plugins:
            continue
        if node.op_type in QUANTIZED_OPS:
            continue  # R9
        finding = (
            _operator_finding(node, target)
            or _attention_finding(node)
            or _type_finding(graph, node, target)
        )
        if finding is not None:
            yield finding


def _operator_finding(node: onnx.NodeProto, target: Target) -> Breach | None:
    table, name = operator_table(), node.op_type
    if name not in table.types:
        known = "listed as unsupported" if name in table.unsupported else "not listed"
        return _missing(node, f"{name} is {known} in the parser's table")
    since = table.since.get(name)
    if since is None or not is_missing_from_some(since, target):
        return None
    if came_too_late(since, target):
        return _missing(node, f"{name} came with TensorRT {since}; no {target} takes it")
    return Breach(
        node.name,
        "",
        f"{name} came with TensorRT {since}; older ones do not build",
        "Build with that version, or export an older opset, which spells it out.",
        severity=Severity.WARNING,
    )


def _attention_finding(node: onnx.NodeProto) -> Breach | None:
    """Return what the parser's Attention does not have: it asserts one output (10.16.0, NVIDIA's
    issue 4738), so that a cache, which goes in as past and comes out as present, has no place.
    """
    more = [name for name in node.output[1:] if name]
    past = [name for name in node.input[4:6] if name]
    if node.op_type != "Attention" or not (more or past):
        return None
    found = f"{len(more) + 1} outputs" if more else f"past keys or values ({past[0]!r})"
    return Breach(
        node.name,
        (past or more)[0],
        f"an Attention with {found}; the parser takes one output, and no cache",
        "Export below opset 23, where attention is written out, or without a cache.",
    )


def _missing(node: onnx.NodeProto, reason: str) -> Breach:
    return Breach(node.name, "", reason, _remedy(node.op_type, "", ()))


def _type_finding(graph: QdqGraph, node: onnx.NodeProto, target: Target) -> Breach | None:
    """Return what is wrong with the type of a node's data, if anything."""
    if node.op_type in _ANY_DATA or not node.input:
        return None
    index = 1 if node.op_type == "Where" else 0
    tensor = node.input[index] if index < len(node.input) else ""
    found = graph.type_of(tensor)
    kind = label(found) if found else ""
    since = operator_table().types_since.get(node.op_type, {})
    late = {name for name, version in since.items() if came_too_late(version, target)}
    allowed = operator_table().types[node.op_type] - late
    what = f"{node.op_type} on {type_name(found)}; the parser's table lists"
    if not found or (kind == "INT8" and _weight_only(graph, node, tensor)):
        return None
    if kind not in allowed:
        listed = ", ".join(sorted(allowed))
        return Breach(node.name, tensor, f"{what} {listed}", _remedy(node.op_type, kind, allowed))
    if kind not in since or not is_missing_from_some(since[kind], target):
        return None
    remedy = f"Build with that version. {_remedy(node.op_type, kind, allowed - {kind})}"
    text = f"{what} that type from {since[kind]} on"
    return Breach(node.name, tensor, text, remedy, severity=Severity.WARNING)


_QUANTIZED = ("INT8", "INT4", "FP8", "FP4")
_INSTEAD = ("INT32", "INT64", "FP32", "FP16", "BF16", "BOOL")
"""What data can be cast to, the best first; floats to floats."""


def _remedy(operator: str, found: str, allowed: Collection[str]) -> str:
    """Return what to do about data of a type that an operator does not take."""
    if found in _QUANTIZED:
        return "Leave it float: data of that type is for Q, DQ and what stands between them."
    if found and found not in (*_INSTEAD, "UINT8"):
        return f"TensorRT has no {found}: keep it out of the engine, or give it another type."
    floats = found in ("FP32", "FP16", "BF16")
    kind = next((n for n in _INSTEAD[2 * floats :] if n in allowed), None)
    if kind is None:
        return f"Replace it, or declare a plugin with --plugin {operator}."
    exact = "" if floats or kind != "FP32" else ", which holds whole numbers up to 2^24"
    return f"Cast its data to {kind}{exact}, and what it makes back."


def _weight_only(graph: QdqGraph, node: onnx.NodeProto, tensor: str) -> bool:
    """Return whether a node only carries an integer weight to its DQ (folded while parsing)."""
    if node.op_type in GEMMS or not graph.is_constant(tensor):
        return False
    readers = graph.uses(node.output[0])
    return bool(readers) and all(reader.op_type == DEQUANTIZE for reader, _ in readers)

"""R7, R9, R14, R15, R16: operators, types and opsets that the parser does not take."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from graph.rules.finding import Finding, Severity, Target
from graph.rules.qdq_graph import (
    DEQUANTIZE,
    GEMMS,
    QUANTIZE,
    QdqGraph,
    scale_of,
    type_name,
    zero_point_of,
)
from graph.rules.support import OPSETS, label, operator_table

QUANTIZED_OPS = (
    *("QLinearMatMul", "QLinearConv", "QLinearAdd", "QLinearMul", "QGemm"),
    *("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"),
)
_DEFAULT = ("", "ai.onnx")
_ANY_DATA = ("If", "Loop", "Scan", "Shape", "Size", "Constant", QUANTIZE, DEQUANTIZE)
"""Operators whose first input says nothing: bodies, shapes, and Q/DQ, which have own rules."""


def bias_is_float(graph: QdqGraph) -> Iterator[Finding]:
    """R7: no DequantizeLinear of int32, which quantizers make of a bias."""
    for node in graph.of(DEQUANTIZE):
        if graph.type_of(node.input[0]) == onnx.TensorProto.INT32:
            yield Finding(
                "R7",
                Severity.ERROR,
                node.name,
                node.input[0],
                "a DequantizeLinear of INT32 (a quantized bias); the parser takes none",
                "Leave biases float (onnxruntime: extra_options QuantizeBias=False).",
            )


def no_quantized_operators(graph: QdqGraph) -> Iterator[Finding]:
    """R9: Q/DQ around float operators, no operators on integers."""
    for node in graph.nodes:
        if node.op_type in QUANTIZED_OPS:
            yield Finding(
                "R9",
                Severity.ERROR,
                node.name,
                "",
                f"{node.op_type} computes on integers; the parser knows Q/DQ around float"
                " operators alone",
                "Quantize in Q/DQ form (onnxruntime: quant_format=QuantFormat.QDQ), statically.",
            )


def weight_is_an_initializer(graph: QdqGraph) -> Iterator[Finding]:
    """R14: integer weights, scales and zero points are initializers, no Constant nodes."""
    for node in graph.of(QUANTIZE, DEQUANTIZE):
        if node.op_type == DEQUANTIZE and graph.comes_from(node.input[0], "Constant"):
            yield Finding(
                "R14",
                Severity.ERROR,
                node.name,
                node.input[0],
                "its integer weight is a Constant node; the parser has no INT8 constants",
                "Make it an initializer; --fix does.",
                fixable=True,
            )
        for name in (scale_of(node), zero_point_of(node)):
            if name and graph.comes_from(name, "Constant"):
                yield Finding(
                    "R14",
                    Severity.WARNING,
                    node.name,
                    name,
                    "a scale or zero point is a Constant node, which not every reader looks into",
                    "Make it an initializer; --fix does.",
                    fixable=True,
                )


def opset_is_in_range(
    graph: QdqGraph, target: Target, plugins: Collection[str]
) -> Iterator[Finding]:
    """R15: an opset that the parser takes, and no domain but ONNX's, save declared plugins."""
    oldest, newest = OPSETS[target]
    if not oldest <= graph.opset <= newest:
        yield Finding(
            "R15",
            Severity.ERROR,
            "",
            "",
            f"the model has opset {graph.opset}; {target} takes {oldest} to {newest}",
            "Export it again, or convert it with onnx.version_converter.",
        )
    known = {function.name for function in graph.model.functions}
    for node in graph.nodes:
        if node.domain in _DEFAULT or node.op_type in plugins or node.op_type in known:
            continue
        yield Finding(
            "R15",
            Severity.ERROR,
            node.name,
            "",
            f"{node.op_type} of the domain {node.domain!r} is no ONNX operator",
            f"Declare it with --plugin {node.op_type} if the target has one; else replace it.",
        )


def operator_is_in_the_table(
    graph: QdqGraph, target: Target, plugins: Collection[str]
) -> Iterator[Finding]:
    """R16: an operator that the parser's table lists, on data of a type listed for it."""
    table = operator_table()
    for node in graph.nodes:
        if node.domain not in _DEFAULT or node.op_type in plugins:
            continue
        if node.op_type in QUANTIZED_OPS:
            continue  # R9
        if node.op_type not in table.types:
            known = "listed as unsupported" if node.op_type in table.unsupported else "not listed"
            yield _unlisted(
                node,
                f"{node.op_type} is {known} in the parser's table of TensorRT {table.tensorrt}",
                f"Replace it, or declare a plugin with --plugin {node.op_type}.",
            )
            continue
        finding = _type_finding(graph, node, table.types[node.op_type], table.tensorrt)
        if finding is not None:
            yield finding
        if target is Target.TENSORRT_10 and node.op_type in table.since:
            yield Finding(
                "R16",
                Severity.WARNING,
                node.name,
                "",
                f"{node.op_type} came with TensorRT {table.since[node.op_type]}; older ones do not"
                " build",
                "Build with that version, or export an older opset, which spells it out.",
            )


def _unlisted(node: onnx.NodeProto, reason: str, remedy: str) -> Finding:
    return Finding("R16", Severity.ERROR, node.name, "", reason, remedy)


def _type_finding(
    graph: QdqGraph, node: onnx.NodeProto, allowed: Collection[str], version: str
) -> Finding | None:
    """Return what is wrong with the type of a node's data, if anything."""
    if node.op_type in _ANY_DATA or not node.input:
        return None
    index = 1 if node.op_type == "Where" else 0
    tensor = node.input[index] if index < len(node.input) else ""
    found = graph.type_of(tensor)
    if not found or label(found) in allowed:
        return None
    if label(found) == "INT8" and _weight_only(graph, node, tensor):
        return None
    return Finding(
        "R16",
        Severity.ERROR,
        node.name,
        tensor,
        f"{node.op_type} on {type_name(found)}; the parser's table of TensorRT {version} lists"
        f" {', '.join(sorted(allowed))}",
        "Cast before and after, or put the quantized types between Q and DQ alone.",
    )


def _weight_only(graph: QdqGraph, node: onnx.NodeProto, tensor: str) -> bool:
    """Return whether a node only carries an integer weight to its DQ (folded while parsing)."""
    if node.op_type in GEMMS or not graph.is_constant(tensor):
        return False
    readers = graph.readers.get(node.output[0], [])
    return bool(readers) and all(reader.op_type == DEQUANTIZE for reader, _ in readers)

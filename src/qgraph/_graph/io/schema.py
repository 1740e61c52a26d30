"""Nodes held against ONNX's operator schemas: how many inputs, which of them may be left out, and
what attributes hold. Whatever reads a node afterwards may rely on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import AttributeProto, NodeProto, defs
from onnx.onnx_cpp2py_export.checker import CheckerContext

from qgraph._graph.bodies import bodies_of
from qgraph._graph.errors import InputError

_ONNX = ("", "ai.onnx")
_STAND_INS = {
    AttributeProto.TENSOR: AttributeProto(
        t=onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[0])
    ),
    AttributeProto.GRAPH: AttributeProto(g=onnx.GraphProto(name="body")),
}
"""For what is looked at elsewhere: values by `require_whole`, bodies one by one."""


def require_schemas(model: onnx.ModelProto, path: Path) -> None:
    """Check every node of ONNX's own operators; one that the installed onnx does not know, or calls
    deprecated, is left to the runtime, as are attributes it does not know.

    Raises:
        InputError: a node that no runtime can run, named.
    """
    functions = {(item.domain, item.name) for item in model.functions}
    _check(model.graph.node, _opset(model), model.ir_version, functions, path)
    for function in model.functions:
        opset = _opset(function) or _opset(model)
        _check(function.node, opset, model.ir_version, functions, path)


def _opset(of: onnx.ModelProto | onnx.FunctionProto) -> int:
    return max((item.version for item in of.opset_import if item.domain in _ONNX), default=0)


def _check(
    nodes: Iterable[NodeProto],
    opset: int,
    ir_version: int,
    functions: set[tuple[str, str]],
    path: Path,
) -> None:
    context = CheckerContext()
    context.ir_version = ir_version
    context.opset_imports = dict.fromkeys(_ONNX, opset)
    for node in nodes:
        if _has_schema(node, opset) and (node.domain, node.op_type) not in functions:
            _check_one(node, opset, context, path)
        for body in bodies_of(node):
            _check(body.node, opset, ir_version, functions, path)


def _has_schema(node: NodeProto, opset: int) -> bool:
    if node.domain not in _ONNX or not defs.has(node.op_type, opset, ""):
        return False
    return not defs.get_schema(node.op_type, opset, "").deprecated


def _check_one(node: NodeProto, opset: int, context: CheckerContext, path: Path) -> None:
    try:
        onnx.checker.check_node(_known(node, opset), context)
    except onnx.checker.ValidationError as error:
        called, why = node.name or f"that makes {next(iter(node.output), '')}", str(error)
        raise InputError(
            f"the {node.op_type} {called!r} is not as ONNX defines it: {why.splitlines()[0]}",
            where=str(path),
            hint="The model is damaged, or was put together wrongly; export it again.",
        ) from error


def _known(node: NodeProto, opset: int) -> NodeProto:
    """Return `node` with the attributes of its schema, what is large in them left out."""
    known = defs.get_schema(node.op_type, opset, "").attributes
    plain = (item.name in known and item.type not in _STAND_INS for item in node.attribute)
    if not node.domain and all(plain):
        return node
    copy = NodeProto(op_type=node.op_type, name=node.name, input=node.input, output=node.output)
    for item in node.attribute:
        if item.name in known:
            light = copy.attribute.add()
            light.CopyFrom(_STAND_INS.get(item.type, item))
            light.name, light.type = item.name, item.type
    return copy

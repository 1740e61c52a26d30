"""The rules by operator; operators that ONNX defines by others have those put in their place.

Attention, RotaryEmbedding, GroupNormalization, Celu … come with a body in ONNX's schemas, which
rules then differentiate. Forward values may differ in the last bits from those of a fused kernel.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import defs, helper

from qgraph._graph.edit.inline import inline_functions
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.gradient.call import Rule, Rules
from qgraph._graph.gradient.operators import (
    activations,
    elementwise,
    indexing,
    movers,
    normalizations,
    products,
    reductions,
    resizing,
    windows,
)
from qgraph._graph.index import inferred, opset_of

_RULES: Rules = {
    **elementwise.RULES,
    **activations.RULES,
    **reductions.RULES,
    **movers.RULES,
    **indexing.RULES,
    **products.RULES,
    **windows.RULES,
    **resizing.RULES,
    **normalizations.RULES,
}
_CONTRIB: Rules = {
    "Gelu": activations.gelu,
    "FastGelu": activations.fast_gelu,
    "QuickGelu": activations.quick_gelu,
}
"""Of the domain com.microsoft."""

TAKE_NARROW = frozenset(elementwise.TAKE_NARROW)
"""Operators whose rules take a narrow gradient as it is."""

ENDS = frozenset(
    {
        *("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "IsNaN", "IsInf", "OneHot", "Range"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
        *("ConstantOfShape", "EyeLike", "Sign", "Floor", "Ceil", "Round", "NonMaxSuppression"),
        *("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "Hardmax"),
        *("RandomUniformLike", "RandomNormalLike", "Bernoulli", "Multinomial"),
    }
)
"""Operators that no gradient passes: what they make does not move with what they read, or in steps,
or is no float."""


def rule_of(node: onnx.NodeProto) -> Rule | None:
    """Return the rule for a node's operator, or None."""
    if node.domain in ("", "ai.onnx"):
        return _RULES.get(node.op_type)
    return _CONTRIB.get(node.op_type) if node.domain == "com.microsoft" else None


_DEPTH = 4
"""Functions within functions."""


def expand_functions(model: onnx.ModelProto) -> None:
    """Replace nodes that no rule covers by their bodies where ONNX has one, in place."""
    for _ in range(_DEPTH):
        calls = [node for node in model.graph.node if _may_expand(node)]
        if not any(_expanded(model, calls)):
            return
        inline_functions(model)
        ensure_names(model)


def _may_expand(node: onnx.NodeProto) -> bool:
    known = rule_of(node) is not None or node.op_type in ENDS
    return not known and not node.overload and node.domain in ("", "ai.onnx")


def _expanded(model: onnx.ModelProto, calls: list[onnx.NodeProto]) -> list[bool]:
    """Make each of `calls` that has a body the call of a local function, and say which have."""
    if not calls:
        return []
    types = _value_types(model)
    return [_make_local(model, node, at, types) for at, node in enumerate(calls)]


def _make_local(
    model: onnx.ModelProto, node: onnx.NodeProto, at: int, types: dict[str, onnx.TypeProto]
) -> bool:
    body = _body(node, opset_of(model), types)
    if body is None:
        return False
    taken = {(item.domain, item.name, item.overload) for item in model.functions}
    node.overload = f"adjoint/{len(taken)}/{at}"
    body.domain, body.name, body.overload = node.domain, node.op_type, node.overload
    model.functions.append(body)
    return True


def _body(
    node: onnx.NodeProto, opset: int, types: dict[str, onnx.TypeProto]
) -> onnx.FunctionProto | None:
    """Return what an operator computes in `opset`, as a function; None where ONNX does not say."""
    try:
        schema: Any = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    version = _newest(schema.function_opset_versions, opset)
    body = onnx.FunctionProto()
    if version:
        body.ParseFromString(schema.get_function_with_opset_version(version))
    else:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
        found = version and schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), given
        )
        if not found:
            return None
        body.ParseFromString(found)
    del body.opset_import[:]
    # ONNX keeps a body for each opset from which its operators mean something else
    body.opset_import.append(helper.make_opsetid("", opset))
    there = {item.name for item in body.attribute_proto}
    body.attribute_proto.extend(
        item.default_value
        for item in schema.attributes.values()
        if item.default_value.name and item.name not in there
    )
    return body


def _newest(versions: list[int], opset: int) -> int:
    return max((version for version in versions if version <= opset), default=0)


def _value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    graph = inferred(model)
    described = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type for value in described}
    for tensor in model.graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types

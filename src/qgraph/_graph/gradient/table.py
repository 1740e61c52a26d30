"""The rules by operator."""

from __future__ import annotations

import onnx

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

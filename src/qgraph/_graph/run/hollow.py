"""Shapes without weights: what a sample makes has the same shape whatever the weights hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import bodies_of
from qgraph._graph.edit.segments import SHAPE_OPS
from qgraph._graph.index import reads
from qgraph._graph.io.weights import LAZY, is_on_disk
from qgraph._graph.tensors import Array, OnDemand

_SHAPED_BY_VALUES = {
    "ArgMax", "ArgMin", "CastLike", "Compress", "NonMaxSuppression", "NonZero", "QLinearMatMul",
    "QuantizeLinear", "DynamicQuantizeLinear", "TopK", "Unique",
}  # fmt: skip
"""What makes integers, or shapes, of values."""
_FLOATS = {*LAZY, TensorProto.BOOL}


def zeros_for(model: onnx.ModelProto) -> Mapping[str, Array] | None:
    """Return zeros in place of the weights on the disk: the system hands out one page of zeros over
    and over, and nothing is read. None where shapes may depend on what weights make: where integers
    are made of it, or a body or an operator of another domain may do so.
    """
    weights = {item.name: item for item in model.graph.initializer if is_on_disk(item)}
    if any(item.data_type not in LAZY for item in weights.values()):
        return None
    behind = set(weights)
    for node in model.graph.node:
        if node.op_type in SHAPE_OPS or behind.isdisjoint(reads(node)):
            continue
        if node.domain not in ("", "ai.onnx") or any(bodies_of(node)) or _makes_integers(node):
            return None
        behind |= set(node.output)
    return OnDemand(
        {name: partial(np.zeros, tuple(item.dims), _dtype(item)) for name, item in weights.items()}
    )


def _makes_integers(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return helper.get_node_attr_value(node, "to") not in _FLOATS
    return node.op_type in _SHAPED_BY_VALUES


def _dtype(tensor: TensorProto) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))

"""Residual Adds of convolutional networks: which of them get Q/DQ, and on which branch.

TensorRT computes `convolution + shortcut` in one INT8 kernel, or passes the sum on in INT8, where
the shortcut is quantized, and only the shortcut: Q/DQ on the convolution's branch would come
between it and the Add and break the fusion. So beside a quantized convolution the Add's shortcut
gets Q/DQ; such an Add is a *companion*, neither a candidate nor kept.

Which Adds are residual, `_graph.edit.residual` tells, the linter as well as here. Where the deep
branch ends in no convolution (feature pyramids, transformers), they are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx

from qgraph._graph.edit.nodes import CONVOLUTIONS, QuantizableNode
from qgraph._graph.edit.residual import residual
from qgraph._graph.errors import UsageError
from qgraph._graph.index import GraphIndex

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Companion:
    """`node`: the Add, its shortcut as its only activation; `beside`: the convolution at the end of
    its other branch, which decides whether it gets Q/DQ.
    """

    node: QuantizableNode
    beside: str


def find_companions(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode]
) -> tuple[Companion, ...]:
    """Return the residual Adds whose branch ends in one of the convolutions `nodes`."""
    convolutions = {node.name for node in nodes if node.op_type in CONVOLUTIONS}
    index = GraphIndex(model)
    found = []
    for add in index.of("Add") if convolutions else ():
        branches = residual(index, add)
        if branches is not None and branches.gemm in convolutions:
            activations = ((branches.shortcut, add.input[branches.shortcut]),)
            node = QuantizableNode(add.name, add.op_type, activations, None, add.output[0])
            found.append(Companion(node, branches.gemm))
    return tuple(found)


def nodes_with_companions(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode]
) -> list[QuantizableNode]:
    """Return `nodes`, then their companions."""
    return [*nodes, *(companion.node for companion in find_companions(model, nodes))]


def companions_named(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], names: Sequence[str]
) -> list[Companion]:
    """Return the companions a profile names, its quantized nodes being `nodes`.

    Raises:
        UsageError: a name is no residual Add beside one of them.
    """
    known = {companion.node.name: companion for companion in find_companions(model, nodes)}
    for name in names:
        if name not in known:
            raise UsageError(
                f"the companion {name!r} is no residual Add beside a quantized convolution",
                hint=f"There are: {', '.join(list(known)[:3]) or 'none'}",
            )
    return [known[name] for name in names]


def with_companions(companions: Sequence[Companion], of: Mapping[str, T]) -> dict[str, T]:
    """Return what is known of nodes, and the same of the companions beside them."""
    beside = {item.node.name: of[item.beside] for item in companions if item.beside in of}
    return {**of, **beside}

"""How many nodes a model has once its functions stand where they are called.

A dozen functions that call each other four times are four million nodes, which onnxruntime would
write out before it refuses anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

from qgraph._graph.bodies import nodes_within
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.limits import Limit

_Key = tuple[str, str, str]


def require_finite(model: onnx.ModelProto, path: Path) -> None:
    """Check that no function calls itself, and that there are not too many nodes.

    Raises:
        InputError: a function calls itself, directly or through others.
        LimitError: more nodes than `Limit.NODES`.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    counts: dict[_Key, int] = {}
    for key in _callees_first(functions, path):
        counts[key] = _count(functions[key].node, counts)
    total, most = _count(model.graph.node, counts), Limit.NODES.get()
    if total > most:
        raise LimitError(
            f"the model has {total:,} nodes with its functions written out, expected at most"
            f" {int(most):,}",
            where=str(path),
            hint=Limit.NODES.hint,
        )


def _count(nodes: Iterable[onnx.NodeProto], counts: Mapping[_Key, int]) -> int:
    return sum(1 + counts.get(_called(node), 0) for node in nodes_within(nodes))


def _called(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _callees_first(functions: Mapping[_Key, onnx.FunctionProto], path: Path) -> list[_Key]:
    """Return the functions such that each stands behind those it calls."""
    calls = {
        key: {_called(node) for node in nodes_within(f.node)} & functions.keys()
        for key, f in functions.items()
    }
    order: list[_Key] = []
    waiting = set(calls)
    while waiting:
        ready = sorted(key for key in waiting if not calls[key] & waiting)
        if not ready:
            raise InputError(
                f"the function {min(waiting)[1]!r} of the model calls itself",
                where=str(path),
                hint="ONNX has no recursion; export the model again.",
            )
        order += ready
        waiting -= set(ready)
    return order

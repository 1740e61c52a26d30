"""Names of a model: text, and each tensor that is read arises exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import onnx

from qgraph._graph.bodies import bodies_of
from qgraph._graph.errors import InputError

_OUTPUTS = "the list of outputs"


def require_wired(model: onnx.ModelProto, path: Path) -> None:
    """Check the names in the graph, in bodies inside it, and in functions.

    Raises:
        InputError: a name that is no UTF-8, a tensor that is made twice, one that nothing makes.
    """
    _check_graph(model.graph, frozenset(), path)
    for function in model.functions:
        _check(function.node, function.input, (), function.output, frozenset(), path)


def _check_graph(graph: onnx.GraphProto, outside: Set[str], path: Path) -> None:
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    inputs, outputs = ([value.name for value in of] for of in (graph.input, graph.output))
    _check(graph.node, inputs, weights, outputs, outside, path)


def _check(
    nodes: Iterable[onnx.NodeProto],
    inputs: Iterable[str],
    weights: Iterable[str],
    outputs: Iterable[str],
    outside: Set[str],
    path: Path,
) -> None:
    """Check one scope; `outside`: what the scopes around it make, which it may read."""
    for text in (*_texts(nodes), *inputs, *weights, *outputs):
        if isinstance(text, bytes):  # what protobuf hands out where the file holds no UTF-8
            raise InputError(f"the name {text!r} in the model is not UTF-8", where=str(path))
    computed = [name for node in nodes for name in node.output if name]
    for names in (weights, inputs, [*{*inputs, *weights}, *computed]):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise InputError(
                f"the tensor {twice[0]!r} is made twice",
                where=str(path),
                hint="The model was put together wrongly: a name is one tensor's. Export it again.",
            )
    there = {"", *weights, *inputs, *computed, *outside}
    wanted = [(f"the node {node.name!r}", name) for node in nodes for name in node.input]
    wanted += [(_OUTPUTS, name) for name in outputs]
    for reader, name in wanted:
        if name not in there or (not name and reader == _OUTPUTS):
            raise InputError(
                f"{reader} reads the tensor {name!r}, which nothing makes", where=str(path)
            )
    for node in nodes:
        for body in bodies_of(node):
            _check_graph(body, there, path)


def _texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)

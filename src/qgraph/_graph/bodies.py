"""The bodies of If, Loop and Scan, walked through; copies; the nodes of a graph and their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import onnx
from google.protobuf.message import Message

from qgraph._graph.errors import InputError

M = TypeVar("M", bound=Message)


def copied(message: M) -> M:
    """Return a copy of a model, a node or another message."""
    made: M = type(message)()
    made.CopyFrom(message)
    return made


def with_graph(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """Return a model of the version, opsets and functions of `model`, around another graph."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.CopyFrom(graph)
    made.functions.extend(model.functions)
    return made


def one_node(
    node: onnx.NodeProto,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """Return a model of a node."""
    graph = onnx.helper.make_graph([node], node.op_type, inputs, outputs, constants)
    opsets = [onnx.helper.make_opsetid("", 21)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put `nodes`, some of which may be the graph's own, in the place of those it has."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds."""
    for attribute in node.attribute:
        yield from bodies_in(attribute)


def bodies_in(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def with_bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every graph inside it, the outer ones first."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from with_bodies(body)


def nodes_within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield `nodes` and every node inside them, the outer ones first."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from nodes_within(body.node)


def tensor_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors of `graph` and its bodies."""
    names: set[str] = set()
    for inner in with_bodies(graph):
        names.update(item.name for item in (*inner.input, *inner.initializer, *inner.output))
        names.update(name for node in inner.node for name in (*node.input, *node.output))
    return names


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes of `graph` and its bodies in an order that runs, in place.

    Nodes that are in such an order already stay where they are.

    Raises:
        InputError: the graph has a cycle.
    """
    for inner in reversed(list(with_bodies(graph))):  # the outer ones copy the inner
        order = _order(inner.node)
        if order != list(range(len(inner.node))):
            replace_nodes(inner, [inner.node[at] for at in order])


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    """Return the places of `nodes` in an order that runs: where possible, as they stand."""
    maker = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    after: list[list[int]] = [[] for _ in nodes]
    waits = [0] * len(nodes)
    for at, node in enumerate(nodes):
        for above in {maker[name] for name in _all_reads(node) & maker.keys()}:
            after[above].append(at)
            waits[at] += 1
    if all(below > above for above, found in enumerate(after) for below in found):
        return list(range(len(nodes)))
    ready = deque(at for at, count in enumerate(waits) if not count)
    order: list[int] = []
    while ready:
        at = ready.popleft()
        order.append(at)
        for below in after[at]:
            waits[below] -= 1
            if not waits[below]:
                ready.append(below)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waits, strict=True) if count)
        raise InputError(
            "the graph cannot be sorted: it has a cycle",
            where=f"node {stuck.name or stuck.output[0]!r}",
            hint="The model is damaged; export it again.",
        )
    return order


def _all_reads(node: onnx.NodeProto) -> set[str]:
    """Return what a node, and its bodies from outside, read; these need not stand in an order that
    runs.
    """
    found = set(node.input)
    for body in bodies_of(node):
        own = {item.name for item in (*body.input, *body.initializer)}
        own.update(name for inner in body.node for name in inner.output)
        read = {value.name for value in body.output}.union(*map(_all_reads, body.node))
        found |= read - own
    return found


def weave_in(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Insert `nodes`, each as early as it can run; they are given in an order that runs.

    Appended at the end they would keep all they read alive until then, and a graph that is run in
    parts would have to carry it there.
    """
    place = dict.fromkeys((item.name for item in (*graph.input, *graph.initializer)), -1)
    for index, node in enumerate(graph.node):
        place |= dict.fromkeys(node.output, index)
    waiting: dict[int, list[onnx.NodeProto]] = {}
    for node in nodes:
        after = max((place.get(name, -1) for name in node.input if name), default=-1)
        waiting.setdefault(after, []).append(node)
        place |= dict.fromkeys(node.output, after)
    woven = list(waiting.get(-1, ()))
    for index, node in enumerate(graph.node):
        woven += [node, *waiting.get(index, ())]
    replace_nodes(graph, woven)

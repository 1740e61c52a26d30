"""An If whose condition is constant, with the branch that always runs in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.bodies import replace_nodes, tensor_names, with_bodies
from qgraph._graph.edit.graft import fresh_names, given_as, renamed
from qgraph._graph.io.weights import array_of


def take_branches(model: onnx.ModelProto) -> bool:
    """Return whether an If of a constant condition was found; each is replaced, in place."""
    taken = tensor_names(model.graph)
    graphs = list(with_bodies(model.graph))
    constants = {item.name: item for graph in graphs for item in graph.initializer}
    found = False
    for graph in reversed(graphs):  # the inner ones first: what is outside copies them
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            branch = _branch(node, constants)
            nodes += [node] if branch is None else _opened(node, branch, graph, taken)
            found = found or branch is not None
        replace_nodes(graph, nodes)
    return found


def _branch(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> onnx.GraphProto | None:
    """Return the branch that always runs, None where that is not known."""
    if node.op_type != "If" or node.domain or node.input[0] not in constants:
        return None
    condition = array_of(constants[node.input[0]])
    wanted = "then_branch" if condition.size and condition.reshape(-1)[0] else "else_branch"
    return next((item.g for item in node.attribute if item.name == wanted), None)


def _opened(
    node: onnx.NodeProto, branch: onnx.GraphProto, graph: onnx.GraphProto, taken: set[str]
) -> Sequence[onnx.NodeProto]:
    """Return what `branch` computes, under the names of what `node` gives; its constants are put
    into `graph`.
    """
    made = [name for inner in branch.node for name in inner.output if name]
    names: dict[str, str] = {}
    copies: dict[str, str] = {}
    given = [value.name for value in branch.output]
    pairs = [(a, b) for a, b in zip(given, node.output, strict=False) if b]
    for inner, outer in pairs:
        if inner in made and inner not in names:
            names[inner] = outer
        else:  # it comes from outside the branch, is constant, or is given twice
            copies[outer] = inner
    own = [name for name in made if name not in names]
    own += [item.name for item in branch.initializer]
    names |= fresh_names(own, taken, f"{node.name}/{{}}".format)
    for item in branch.initializer:
        held = graph.initializer.add()
        held.CopyFrom(item)
        held.name = names[item.name]
    straight = {outer: names.get(inner, inner) for outer, inner in copies.items()}
    return [renamed(inner, names, taken) for inner in branch.node] + given_as(straight)

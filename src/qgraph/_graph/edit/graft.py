"""Nodes of a body or a function, to be put in the place of the node that holds or calls them.

Tensors of the body's own get new names where the graph around it has theirs already, and what the
body gives is called what the node gave, so that whoever reads it goes on reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import helper

from qgraph._graph.bodies import bodies_of, copied, replace_nodes
from qgraph._graph.edit.names import fresh_name


def fresh_names(
    wanted: Sequence[str], taken: set[str], spell: Callable[[str], str] = str
) -> dict[str, str]:
    """Return name → what it is to be called, one that is not `taken`, which it then is."""
    found: dict[str, str] = {}
    for name in wanted:
        found[name] = fresh_name(spell(name), taken)
    return found


def renamed(node: onnx.NodeProto, names: Mapping[str, str], taken: set[str]) -> onnx.NodeProto:
    """Return a copy of `node` that reads and makes what `names` calls its tensors.

    What its bodies make gets a new name where the old one is `taken`.
    """
    made = copied(node)
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for body in bodies_of(made):
        _rename_body(body, names, taken)
    return made


def _rename_body(body: onnx.GraphProto, names: Mapping[str, str], taken: set[str]) -> None:
    own = [item.name for item in (*body.input, *body.initializer)]
    own += [name for node in body.node for name in node.output if name]
    inner = {**names, **fresh_names(list(dict.fromkeys(own)), taken)}
    for item in (*body.input, *body.initializer, *body.output, *body.value_info):
        item.name = inner.get(item.name, item.name)
    nodes = [renamed(node, inner, taken) for node in body.node]
    replace_nodes(body, nodes)


def given_as(outputs: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return nodes that make each of `outputs` (name → the tensor it is equal to)."""
    return [helper.make_node("Identity", [given], [name]) for name, given in outputs.items()]

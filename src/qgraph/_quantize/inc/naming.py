"""Names that INC gets to see, and the way back.

INC marks a node it quantized by a suffix, and takes a node whose own name ends so for another.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from qgraph._graph.bodies import copied
from qgraph._graph.edit.names import fresh_name

SUFFIX = "_quant"


def without_mark(name: str) -> str:
    """Return what a node was called before INC marked it as one it quantized."""
    return name.removesuffix(SUFFIX)


def private_names(model: onnx.ModelProto) -> dict[str, str]:
    """Return node name → the name INC gets to see, for those that differ."""
    taken = {node.name for node in model.graph.node}
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.name.endswith(SUFFIX):
            names[node.name] = fresh_name(f"{node.name}.", taken)
    return names


def renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Return `model`, copied if nodes are renamed."""
    if not names:
        return model
    copy = copied(model)
    for node in copy.graph.node:
        node.name = names.get(node.name, node.name)
    return copy


def restore_names(model: onnx.ModelProto, names: Mapping[str, str]) -> frozenset[str]:
    """Give the nodes of INC's model their own names again, in place; return those it quantized.

    `names` are those of `private_names`.
    """
    own = {private: name for name, private in names.items()}
    quantized = set()
    for node in model.graph.node:
        if node.name.endswith(SUFFIX):
            seen = without_mark(node.name)
            quantized.add(own.get(seen, seen))
            node.name = own.get(seen, seen)
        else:
            node.name = own.get(node.name, node.name)
    return frozenset(quantized)

"""Where in a model a node stands, as far as its name says: layer and kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qgraph._sensitivity.report import NodeScore

_LAYER = re.compile(r"(?:^|[./_])(?:layers?|blocks?|h|stages?|model)[./_](\d+)(?=[./_]|$)")


@dataclass(frozen=True, slots=True)
class Placed:
    """`layer`: its number, None where the name holds none. `kind`: as in `q_proj`, `down_proj`."""

    node: NodeScore
    layer: int | None
    kind: str


def place(nodes: Sequence[NodeScore]) -> list[Placed]:
    """Return each node with its place, in the order given."""
    return [Placed(node, layer_of(node.scope), kind_of(node)) for node in nodes]


def layer_of(scope: str) -> int | None:
    """Return the number of the layer: `model.layers.11.mlp.down_proj` → 11."""
    found = _LAYER.search(scope)
    return int(found[1]) if found else None


def kind_of(node: NodeScore) -> str:
    """Return what the module is called inside its layer, or the operator.

    `model.layers.0.mlp.down_proj` → `down_proj`; `blocks.3.mlp.fc1` → `fc1`.
    """
    last = node.scope.rpartition(".")[2]
    return node.op_type if not last or last.isdigit() else last

"""Nodes that draw random numbers: what they give differs from run to run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx

from qgraph._graph.bodies import nodes_within
from qgraph._graph.index import GraphIndex

RANDOM_OPS = frozenset(
    {
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    }
)
_SPOKEN = 3


def random_note(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return a warning where nodes of `model`, or in bodies, draw random numbers; else nothing."""
    found = [f"{node.op_type} {node.name!r}" for node in _drawing(model)]
    if not found:
        return ()
    more = f" and {len(found) - _SPOKEN} more" if len(found) > _SPOKEN else ""
    return (
        f"the model draws random numbers ({', '.join(found[:_SPOKEN])}{more}), new ones in every"
        " run. Figures include this noise, and may be nothing else. Compare before these nodes with"
        " --outputs, or export the model without them.",
    )


def _drawing(model: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    graph = GraphIndex(model)
    for node in nodes_within(model.graph.node):
        trains = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
        if node.op_type in RANDOM_OPS:
            yield node
        elif trains:
            mode = graph.constant(node.input[2])
            if mode is None or np.any(mode):
                yield node

"""Parts of shapes, `Shape<start, end>`, kept from onnx-graphsurgeon's folding.

It does not read those attributes (0.6.1) and puts the whole shape in the place of a part: what
reads it is then wrong, or fails. While it folds, a part is a Slice of the whole, which it knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from qgraph._graph.edit.names import fresh_name

_BOUNDS = {"start": 0, "end": np.iinfo(np.int64).max}


@contextmanager
def sliced(graph: gs.Graph) -> Iterator[None]:
    """Spell parts of shapes as slices; afterwards those that are left are as they were."""
    written = [
        (node, *_slice(inner, node))
        for inner in (graph, *graph.subgraphs(recursive=True))
        for node in list(inner.nodes)
        if node.op == "Shape" and not node.domain and node.attrs
    ]
    yield
    for node, part, attributes in written:
        # a folded one has no outputs any more
        if part.outputs and part.inputs and part.inputs[0].inputs == [node]:
            node.outputs, node.attrs = list(part.outputs), attributes
            part.outputs.clear()
            part.inputs.clear()


def _slice(graph: gs.Graph, node: gs.Node) -> tuple[gs.Node, dict[str, Any]]:
    """Put a Slice behind a Shape; return it, and the attributes that the Shape had."""
    attributes, output = dict(node.attrs), node.outputs[0]
    taken = set(graph.tensors())
    bounds = [
        gs.Constant(
            fresh_name(f"{output.name}_{name}", taken), np.array([attributes.get(name, at)])
        )
        for name, at in _BOUNDS.items()
    ]
    whole = gs.Variable(fresh_name(f"{output.name}_whole", taken), np.int64)
    part = gs.Node("Slice", f"{node.name}_part", inputs=[whole, *bounds], outputs=[output])
    node.outputs, node.attrs = [whole], {}
    graph.nodes.insert(graph.nodes.index(node) + 1, part)
    return part, attributes

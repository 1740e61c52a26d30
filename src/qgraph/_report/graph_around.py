"""The graph around the scored nodes, as data for the page: what a node reads, and what reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from qgraph._evaluation.results import Evaluation
from qgraph._graph.edit.names import ensure_names
from qgraph._graph.errors import QGraphError
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import identify, read_model

_WHOLE = 20_000
"""Nodes. Of a larger graph the page holds the scored ones and their neighbors alone."""
_Key = tuple[str, str]
"""Name and operator of a node; of an input or output of the graph, its name and which it is."""


def find_graph(folder: Path, evaluation: Evaluation) -> onnx.ModelProto | None:
    """Return the float model of an evaluation, without weights, nodes named as in reports; None
    where neither `folder` nor the one above holds it.
    """
    for path in (folder / evaluation.model.path, folder.resolve().parent / evaluation.model.path):
        try:
            if path.is_file() and identify(path).sha256 == evaluation.model.sha256:
                model = read_model(path, weights=False)
                ensure_names(model)
                return model
        except (QGraphError, OSError):  # a page is of use without
            continue
    return None


def graph_around(
    model: onnx.ModelProto, scored: Collection[str], formats: Mapping[str, str]
) -> dict[str, Any]:
    """Return `nodes`: [name, operator, profiles that quantize it], and `edges`: [from, to] by place
    among them. The graph's own inputs and outputs stand among the nodes; constants do not.

    `formats`: name → profiles that quantize the node.
    """
    index = GraphIndex(model)
    edges = list(dict.fromkeys(_edges(index)))
    if len(index.nodes) > _WHOLE:
        known = set(scored)
        edges = [(a, b) for a, b in edges if a[0] in known or b[0] in known]
    place = {key: at for at, key in enumerate(dict.fromkeys(key for pair in edges for key in pair))}
    return {
        "nodes": [[name, kind, formats.get(name, "")] for name, kind in place],
        "edges": [[place[a], place[b]] for a, b in edges],
    }


def _edges(index: GraphIndex) -> Iterator[tuple[_Key, _Key]]:
    for name in sorted(index.inputs - index.initializers.keys()):
        yield from (((name, "input"), _key(node)) for node in index.readers(name))
    for node in index.nodes:
        if node.op_type == "Constant":
            continue
        for tensor in node.output:
            yield from ((_key(node), _key(reader)) for reader in index.readers(tensor))
            if tensor in index.outputs:
                yield _key(node), (tensor, "output")


def _key(node: onnx.NodeProto) -> _Key:
    return node.name, node.op_type

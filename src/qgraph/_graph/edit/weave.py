"""Adding nodes to a graph right after what they read."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from qgraph._graph.bodies import replace_nodes


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

"""What scoring must cost at least: E*, in forwards of the model.

A node quantized alone changes only what lies downstream of it, so an engine that never repeats
anything else computes, for each node, the node and everything downstream. Summed over the nodes
and divided by the model's MACs, that is E*: N/2 for a uniform chain of N nodes. All MACs count
alike; an engine that multiplies whole numbers where nodes are quantized may come below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.edit.macs import counted_nodes, macs_of
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import reads
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import observe_shapes
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed


def measure_macs(
    prepared: PreparedModel, feed: Feed, provider: Provider, memory: Memory | None = None
) -> dict[str, int]:
    """Return node name → MACs of every node that multiplies, for this feed."""
    return macs_of(
        prepared.model, lambda asked: observe_shapes(prepared, asked, feed, provider, memory)
    )


def params_of(model: onnx.ModelProto) -> dict[str, int]:
    """Return node name → parameters it multiplies with, of every node that multiplies."""
    sizes = {
        item.name: math.prod(item.dims) for item in model.graph.initializer if len(item.dims) > 1
    }
    return {
        node.name: sum(sizes.get(name, 0) for name in set(reads(node)))
        for node in counted_nodes(model.graph.node)
    }


def ideal_forwards(
    model: onnx.ModelProto, macs: Mapping[str, int], nodes: Sequence[QuantizableNode]
) -> float:
    """Return E* for scoring `nodes` once, in forwards of the model."""
    return sum(forwards_below(model, macs, nodes).values())


def forwards_below(
    model: onnx.ModelProto, macs: Mapping[str, int], nodes: Sequence[QuantizableNode]
) -> dict[str, float]:
    """Return node → what it and all that depends on it come to, in forwards of the model."""
    total = sum(macs.values())
    below = _macs_from_here_on(model, macs) if total else {}
    return {node.name: below.get(node.name, 0) / max(1, total) for node in nodes}


def _macs_from_here_on(model: onnx.ModelProto, macs: Mapping[str, int]) -> dict[str, int]:
    """Return node name → MACs of the node and all nodes that depend on it.

    Each tensor holds the set of costly nodes below it, a bit for each, and what they come to. What
    is below several tensors is nearly always below one of them, so that few bits are added up.
    """
    costly = [node.name for node in model.graph.node if macs.get(node.name)]
    bit = {name: index for index, name in enumerate(costly)}
    reached: dict[str, tuple[int, int]] = {}

    def joined(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        (large, total), (small, _) = (one, other) if one[1] >= other[1] else (other, one)
        more = small & ~large
        found = large | small
        while more:
            last = more & -more
            total += macs[costly[last.bit_length() - 1]]
            more ^= last
        return found, total

    result: dict[str, int] = {}
    for node in reversed(model.graph.node):
        below = (1 << bit[node.name], macs[node.name]) if node.name in bit else (0, 0)
        for output in node.output:
            below = joined(below, reached.get(output, (0, 0)))
        for name in reads(node):
            reached[name] = joined(reached.get(name, (0, 0)), below)
        result[node.name] = below[1]
    return result

"""Where a node's error meets the gradient: at its output; that of keys and values below attention.

A key or value of one position moves the output of every position that attends to it. At its own
output, squared position by position, a position to which all attend is one draw of chance a sample.
Below the attention the same error stands at all positions that attended, a draw for each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.bodies import bodies_of, copied
from qgraph._graph.edit.nodes import MATMULS, QuantizableNode
from qgraph._graph.gradient import ENDS
from qgraph._graph.index import GraphIndex

_ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """`tensor`: all of a node's error passes it; `axis`: that of its channels; `between`: the nodes
    from the node's output to it, in graph order.
    """

    tensor: str
    axis: int
    between: Sequence[onnx.NodeProto] = ()

    def carried(
        self, output: str, quantized: str, fresh: Callable[[str], str]
    ) -> tuple[list[onnx.NodeProto], str]:
        """Return copies of what lies between that read `quantized` in place of `output`, and what
        they make at the place. `fresh`: gives a name that is not taken.
        """
        names, copies = {output: quantized}, []
        for node in self.between:
            copy = copied(node)
            copy.name = fresh(f"{node.name}/quantized")
            copy.input[:] = [names.get(name, name) for name in node.input]
            names |= {name: fresh(f"{name}/quantized") for name in node.output if name}
            copy.output[:] = [names.get(name, "") for name in node.output]
            copies.append(copy)
        return copies, names[self.tensor]


def places_of(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], ends: Collection[str], *, below: bool
) -> dict[str, tuple[Place, ...]]:
    """Return the places of each node, its own output last. `ends`: tensors that are read from
    outside the graph; `below`: whether there are places below attention.
    """
    index = GraphIndex(model)
    at = {node.name: number for number, node in enumerate(index.nodes)}
    readers = {node.name: node for node in nodes if node.weight is not None}
    found: dict[str, tuple[Place, ...]] = {}
    for node in nodes:
        asked = below and node.name in readers
        moved = _below(node, index, at, readers, ends) if asked else None
        own = Place(node.output, _axis(node))
        found[node.name] = (own,) if moved is None else (moved, own)
    return found


def _below(
    node: QuantizableNode,
    index: GraphIndex,
    at: Mapping[str, int],
    readers: Mapping[str, QuantizableNode],
    ends: Collection[str],
) -> Place | None:
    """Return what the next of `readers` reads, where keys or values were mixed on the way, and
    nothing of them goes past it.
    """
    reached, mixed = {node.output}, False
    between: list[onnx.NodeProto] = []
    ahead = _readers_at(node.output, index, at)
    while ahead:
        each = index.nodes[min(ahead)]
        ahead.discard(at[each.name])
        if any(bodies_of(each)) or not reached.isdisjoint(ends):
            return None
        if each.name in readers:
            last, start = readers[each.name].activations[0][1], at[each.name]
            open_ = {n for n in reached if any(r >= start for r in _readers_at(n, index, at))}
            moved = Place(last, _axis(readers[each.name]), between)
            return moved if mixed and open_ == {last} else None
        mixed |= _mixes(each, reached, index.initializers.keys())
        between.append(each)
        for name in filter(None, each.output):
            reached.add(name)
            ahead |= _readers_at(name, index, at)
    return None


def _readers_at(tensor: str, index: GraphIndex, at: Mapping[str, int]) -> set[int]:
    return {at[item.name] for item in index.readers(tensor) if item.op_type not in ENDS}


def _mixes(node: onnx.NodeProto, reached: Collection[str], constants: Collection[str]) -> bool:
    """Return whether a node brings what it reads of some positions to others: keys or values."""
    if node.op_type in _ATTENTIONS:
        return any(name in reached for name in node.input[1:])
    return node.op_type == "MatMul" and node.input[1] in reached and node.input[0] not in constants


def _axis(node: QuantizableNode) -> int:
    return -1 if node.op_type in MATMULS else 1

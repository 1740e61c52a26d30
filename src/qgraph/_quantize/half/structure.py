"""What belongs in fp32 by what it is, whatever the data at hand shows.

Statistics of norms: squares of what lies beyond 256 overflow, squares of what lies below 2.4e-4
vanish. Angles of positions: fp16 has no odd number beyond 2048. PyTorch's own half precision
computes both in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from qgraph._graph.index import GraphIndex
from qgraph._graph.keep import Keep

_STATISTICS = "statistics of a norm: its squares overflow beyond 256 and vanish below 2.4e-4"
_ANGLES = "angles of positions: fp16 holds no odd position beyond 2048"
_ABOVE = ("Add", "Cast", "Clip", "Max", "Mul", "Pow", "ReduceMean", "ReduceSum", "Sub", "Unsqueeze")
_DIVIDES = ("Reciprocal", "Div")
_LONGEST = 12
_ON_THE_WAY_TO_SOFTMAX = {
    *("Add", "Sub", "Mul", "Where", "Max", "Min", "Clip", "Identity", "Cast"),
    *("Concat", "Expand", "Gather", "Reshape", "Slice", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "Pad", "Trilu"),
}


def keep_by_structure(index: GraphIndex) -> list[Keep]:
    """Return the nodes that compute statistics of norms or angles of positions."""
    found: dict[str, str] = {}
    for node in index.nodes:
        if index.types.get(node.output[0]) != TensorProto.FLOAT:
            continue
        if node.op_type == "Sqrt":
            found |= dict.fromkeys(_norm(index, node), _STATISTICS)
        elif node.op_type in ("Sin", "Cos"):
            found |= dict.fromkeys(_angles(index, node), _ANGLES)
    return [Keep(name, reason) for name, reason in found.items()]


def _norm(index: GraphIndex, root: onnx.NodeProto) -> list[str]:
    """Return the nodes from the squares to the reciprocal of the root; none where it is no norm."""
    above = _squares_above(root, index.producer)
    if above is None:
        return []
    below = [item for item in index.readers(root.output[0]) if item.op_type in _DIVIDES]
    # 1 / √… is what something is multiplied by
    inverse = [
        item
        for item in below
        if item.op_type == "Reciprocal" or item.input[0] in index.initializers
    ]
    scaled = [
        reader
        for item in inverse
        for reader in index.readers(item.output[0])
        if reader.op_type == "Mul"
    ]
    return [node.name for node in (*above, root, *below, *scaled)]


def _squares_above(
    root: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto] | None:
    """Return the nodes between what is squared and the root, if a mean of squares is among them."""
    found: list[onnx.NodeProto] = []
    means = False
    tensor = root.input[0]
    for _ in range(_LONGEST):
        node = producers.get(tensor)
        if node is None or node.op_type not in _ABOVE:
            break
        found.append(node)
        means = means or node.op_type in ("ReduceMean", "ReduceSum")
        squares = node.op_type == "Pow" or (node.op_type == "Mul" and len(set(node.input)) == 1)
        if means and squares:
            return found + _centred(node, producers)
        tensor = next((name for name in node.input if name in producers), "")
    return None


def _centred(
    square: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Return the subtraction of the mean, and the mean, where that is what is squared."""
    node = producers.get(square.input[0])
    if node is not None and node.op_type == "Cast":
        return [node, *_centred_at(producers.get(node.input[0]), producers)]
    return _centred_at(node, producers)


def _centred_at(
    node: onnx.NodeProto | None, producers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    if node is None or node.op_type != "Sub":
        return []
    means = [producers[name] for name in node.input if name in producers]
    return [node, *(item for item in means if item.op_type == "ReduceMean")]


def _angles(index: GraphIndex, node: onnx.NodeProto) -> list[str]:
    """Return what makes an angle out of whole numbers and constants; none where floats go in."""
    waiting, seen = [node.input[0]], {node.name: None}
    while waiting:
        tensor = waiting.pop()
        if index.types.get(tensor) != TensorProto.FLOAT or tensor in index.initializers:
            continue
        maker = index.producer.get(tensor)
        if maker is None:  # an input: this is no position
            return []
        if maker.name not in seen:
            seen[maker.name] = None
            waiting += maker.input
    return list(seen)


def masks(index: GraphIndex) -> set[str]:
    """Return the tensors that only a Softmax sees in the end: large negative numbers in them are a
    mask, and as good where fp16 ends.
    """
    found: set[str] = set()
    for node in reversed(index.nodes):
        for name in node.output:
            behind = index.readers(name)
            if behind and name not in index.outputs and all(_masks(item, found) for item in behind):
                found.add(name)
    for name in index.initializers:
        behind = index.readers(name)
        if behind and all(_masks(item, found) for item in behind):
            found.add(name)
    return found


def _masks(node: onnx.NodeProto, known: set[str]) -> bool:
    if node.op_type in ("Softmax", "Shape"):
        return True
    return node.op_type in _ON_THE_WAY_TO_SOFTMAX and known.issuperset(node.output)

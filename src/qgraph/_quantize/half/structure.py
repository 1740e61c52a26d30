"""What belongs in fp32 by what it is, whatever the data at hand shows.

Statistics of norms: squares of what lies beyond 256 overflow, squares of what lies below 2.4e-4
vanish. Angles of positions: fp16 has no odd number beyond 2048. PyTorch's own half precision
computes both in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto

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


def keep_by_structure(model: onnx.ModelProto, types: Mapping[str, int]) -> list[Keep]:
    """Return the nodes that compute statistics of norms or angles of positions."""
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = readers_of(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, str] = {}
    for node in model.graph.node:
        if types.get(node.output[0]) != TensorProto.FLOAT:
            continue
        if node.op_type == "Sqrt":
            found |= dict.fromkeys(_norm(node, producers, readers, constants), _STATISTICS)
        elif node.op_type in ("Sin", "Cos"):
            found |= dict.fromkeys(_angles(node, producers, constants, types), _ANGLES)
    return [Keep(name, reason) for name, reason in found.items()]


def _norm(
    root: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    constants: set[str],
) -> list[str]:
    """Return the nodes from the squares to the reciprocal of the root; none where it is no norm."""
    above = _squares_above(root, producers)
    if above is None:
        return []
    below = [item for item in readers.get(root.output[0], ()) if item.op_type in _DIVIDES]
    # 1 / √… is what something is multiplied by
    inverse = [item for item in below if item.op_type == "Reciprocal" or item.input[0] in constants]
    scaled = [
        reader
        for item in inverse
        for reader in readers.get(item.output[0], ())
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


def _angles(
    node: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    constants: set[str],
    types: Mapping[str, int],
) -> list[str]:
    """Return what makes an angle out of whole numbers and constants; none where floats go in."""
    waiting, seen = [node.input[0]], {node.name: None}
    while waiting:
        tensor = waiting.pop()
        if types.get(tensor) != TensorProto.FLOAT or tensor in constants:
            continue
        maker = producers.get(tensor)
        if maker is None:  # an input: this is no position
            return []
        if maker.name not in seen:
            seen[maker.name] = None
            waiting += maker.input
    return list(seen)


def readers_of(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return tensor → the nodes that read it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def masks(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that only a Softmax sees in the end: large negative numbers in them are a
    mask, and as good where fp16 ends.
    """
    outputs = {value.name for value in model.graph.output}
    readers = readers_of(model)
    found: set[str] = set()
    for node in reversed(model.graph.node):
        for name in node.output:
            behind = readers.get(name, [])
            if behind and name not in outputs and all(_masks(item, found) for item in behind):
                found.add(name)
    for tensor in model.graph.initializer:
        behind = readers.get(tensor.name, [])
        if behind and all(_masks(item, found) for item in behind):
            found.add(tensor.name)
    return found


def _masks(node: onnx.NodeProto, known: set[str]) -> bool:
    if node.op_type in ("Softmax", "Shape"):
        return True
    return node.op_type in _ON_THE_WAY_TO_SOFTMAX and known.issuperset(node.output)

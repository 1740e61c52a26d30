"""The way through attention: from what `o_proj` reads back to what projects the values.

X = join(P · V): a channel of X is made of one channel of V, weighed over positions. So V's
projection absorbs what X is divided by, one factor for all query heads that share a head of V.

    V [B, S, kv·size] - Reshape - Transpose - (Unsqueeze - Expand - Reshape) - MatMul - Transpose -
    Reshape - X [B, S, kv·group·size]

A cache between them is a graph output, or joined with what came before it: there nothing is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.weights import array_of
from qgraph._quantize.smooth.layers import Heads

Above = Callable[[onnx.NodeProto, int], onnx.NodeProto | None]
"""Returns what makes an input of a node, if that node alone reads it, once."""

_PERMUTED = [0, 2, 1, 3]
_JOINED = (("Transpose", 0), ("MatMul", 0))
_REPEATED = (("Reshape", 1), ("Expand", 0), ("Unsqueeze", 0), ("Transpose", 0))
_PLAIN = (("Transpose", 1),)


def values_of(
    join: onnx.NodeProto, channels: int, above: Above, index: GraphIndex
) -> tuple[onnx.NodeProto, list[Heads]] | None:
    """Return the Reshape that splits V into heads, and what heads there may be, for the one that
    joins those of P · V; None where it joins something else.
    """
    product = _climb(index, join, _JOINED, above)
    if product is None:
        return None
    apart = _climb(index, product, _PLAIN, above)
    repeated = apart is None
    if apart is None:
        apart = _climb(index, product, _REPEATED, above)
    split = _climb(index, apart, (("Reshape", 0),), above) if apart is not None else None
    sizes = _last_two(index, split.input[1]) if split is not None else None
    if split is None or sizes is None or channels % sizes[1]:
        return None
    count = channels // sizes[1]
    shape = index.shape_of(product.output[0]) or ()
    if len(shape) == 4 and shape[1] not in (None, count):  # positions are joined, too
        return None
    # exporters leave the number of heads to be inferred: what makes V tells
    known = [sizes[0]] if sizes[0] > 0 else range(1, count + 1)
    heads = [Heads(kv, count // kv, sizes[1]) for kv in known if count % kv == 0]
    return split, [item for item in heads if repeated or item.group == 1]


def _climb(
    index: GraphIndex, node: onnx.NodeProto, steps: Sequence[tuple[str, int]], above: Above
) -> onnx.NodeProto | None:
    """Return where `steps` lead: each an operator, and which input of the one before it makes."""
    for op_type, position in steps:
        found = above(node, position)
        if found is None or found.op_type != op_type:
            return None
        if op_type == "Transpose" and attributes(found).get("perm") != _PERMUTED:
            return None
        # a new axis behind the heads: each is repeated, and its copies lie side by side
        if op_type == "Unsqueeze" and _whole_numbers(index, found.input[1]) != [2]:
            return None
        node = found
    return node


def _last_two(index: GraphIndex, tensor: str) -> tuple[int, int] | None:
    """Return the last two of four sizes that a Reshape is given, if they are constant."""
    sizes = _whole_numbers(index, tensor) or []
    if index.comes_from(tensor, "Concat"):
        parts = [_whole_numbers(index, name) for name in index.producer[tensor].input]
        sizes = [size for part in parts for size in part or [0]]
    return (sizes[2], sizes[3]) if len(sizes) == 4 and sizes[3] > 0 and sizes[2] else None


def _whole_numbers(index: GraphIndex, tensor: str) -> list[int] | None:
    """Return a short constant list of int64, None of anything else."""
    held = index.initializers.get(tensor)
    if held is None or held.data_type != onnx.TensorProto.INT64 or len(held.dims) != 1:
        return None
    numbers: list[int] = array_of(held).tolist()
    return numbers

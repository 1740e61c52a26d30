"""The multiply-accumulates of what onnxruntime adds to ONNX (domain `com.microsoft`).

| op                          | MACs                                                           |
|-----------------------------|----------------------------------------------------------------|
| MultiHeadAttention          | B · queries · keys · (width of Q and of V); a past adds keys   |
| GroupQueryAttention         | the same; K and V may be packed behind Q                       |
| Attention                   | B · S · |W|, and the product of all positions with all         |
| MatMulNBits                 | elements of output · K                                         |

Source: onnxruntime's `docs/ContribOperators.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx

from qgraph._graph.index import attributes

DOMAIN = "com.microsoft"
Shapes = Mapping[str, Sequence[int]]


def multi_head_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the MACs of attention over Q, K and V [B, S, width]; K may hold the heads apart.

    Packed as [B, S, heads, 3, size] there are as many keys as queries.
    """
    query = shapes[node.input[0]]
    if len(query) == 5:
        batch, length, heads, _, size = query
        return 2 * batch * length * length * heads * size
    key, value = (shapes[name] for name in node.input[1:3])
    past = _past(node, shapes, 6)
    keys = (key[2] if len(key) == 4 else key[1]) + past
    width = value[1] * value[3] if len(value) == 4 else value[2]
    return query[0] * query[1] * keys * (query[2] + width)


def group_query_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the MACs of attention whose heads share keys: each query head meets all keys."""
    batch, length, width = shapes[node.input[0]]
    heads = {key: int(attributes(node)[key]) for key in ("num_heads", "kv_num_heads")}
    packed = not node.input[1]
    count = heads["num_heads"] + (2 * heads["kv_num_heads"] if packed else 0)
    keys = length + _past(node, shapes, 3)
    return 2 * batch * length * keys * heads["num_heads"] * (width // count)


def attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the MACs of projecting to Q, K and V, and of attending; input [B, S, I]."""
    batch, length, _ = shapes[node.input[0]]
    weight = shapes[node.input[1]]
    past = shapes[node.input[4]][3] if len(node.input) > 4 and node.input[4] else 0
    return batch * length * (math.prod(weight) + 2 * (length + past) * weight[1] // 3)


def matmul_n_bits(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the MACs of a product with a weight in blocks of few bits; K is an attribute."""
    return math.prod(shapes[node.output[0]]) * int(attributes(node)["K"])


def _past(node: onnx.NodeProto, shapes: Shapes, index: int) -> int:
    """Return how many keys a past of [B, heads, P, size] brings."""
    given = len(node.input) > index and node.input[index]
    return shapes[node.input[index]][2] if given else 0

"""The multiply-accumulates of nodes, those that no engine runs in INT8 included.

| op                      | MACs                                                       |
|-------------------------|------------------------------------------------------------|
| MatMul, FusedMatMul     | elements of output · last size of the left operand         |
| Gemm                    | elements of output · K                                     |
| Conv, DeformConv        | elements of output · |W|/M                                 |
| ConvTranspose           | elements of data · |W|/C                                   |
| Einsum                  | product of the sizes of all letters                        |
| LSTM, GRU, RNN          | steps · batch · directions · gates · H · (I + H)           |
| Attention               | B · heads · queries · keys · (head size of K and of V)     |

And of onnxruntime's own operators (domain `com.microsoft`; source: its `docs/ContribOperators.md`):

| op                      | MACs                                                       |
|-------------------------|------------------------------------------------------------|
| MultiHeadAttention      | B · queries · keys · (width of Q and of V); a past adds keys |
| GroupQueryAttention     | the same; K and V may be packed behind Q                   |
| Attention               | B · S · |W|, and the product of all positions with all     |
| FusedGemm, FusedConv    | as Gemm and Conv                                           |
| MatMulNBits             | elements of output · K                                     |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx

from qgraph._graph.bodies import bodies_of, nodes_within
from qgraph._graph.index import attributes

Shapes = Mapping[str, Sequence[int]]
RECURRENT = ("LSTM", "GRU", "RNN")


def multiplies(node: onnx.NodeProto) -> bool:
    """Return whether a node itself is counted: ONNX's own, or onnxruntime's."""
    return (node.domain, node.op_type) in _RULES


def counted_nodes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the nodes that multiply, themselves or in their bodies."""
    return [node for node in nodes if multiplies(node) or costly_inside(node)]


def costly_inside(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes in the bodies of `node` that multiply."""
    inside = nodes_within([inner for body in bodies_of(node) for inner in body.node])
    return [inner for inner in inside if multiplies(inner)]


def tensors_to_know(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Return the tensors whose shapes MACs are worked out from."""
    counted = filter(multiplies, nodes)
    names = (n for node in counted for n in (*node.input, *node.output) if n)
    return list(dict.fromkeys(names))


def macs_of(
    model: onnx.ModelProto, shapes_of: Callable[[list[str]], Mapping[str, Sequence[int]]]
) -> dict[str, int]:
    """Return node → MACs of every node that multiplies, quantizable or not; of what multiplies in
    the body of a node, 0. `shapes_of`: measures the shapes of tensors.
    """
    shapes: dict[str, Sequence[int]] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    nodes = counted_nodes(model.graph.node)
    shapes |= shapes_of([name for name in tensors_to_know(nodes) if name not in shapes])
    return {node.name: macs_by_shapes(node, shapes) or 0 for node in nodes}


def macs_by_shapes(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Return the MACs of a node without bodies, None where a shape is missing or does not fit."""
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None:
        return None
    try:
        return rule(node, shapes)
    except (KeyError, IndexError, ValueError):
        return None


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    inner = shapes[node.input[0]][0 if attributes(node).get("transA", 0) else 1]
    return math.prod(shapes[node.output[0]]) * inner


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    equation = attributes(node)["equation"]
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").split("->")[0].split(",")
    if len(terms) == 1:
        return 0  # it moves values or sums them up
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        shape = list(shapes[name])
        head, dots, tail = term.partition("...")
        between = len(shape) - len(head) - len(tail)
        letters = [*head, *(f".{between - i}" for i in range(between) if dots), *tail]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    batch_first = bool(attributes(node).get("layout", 0))
    steps, batch = (shapes[node.input[0]][i] for i in ((1, 0) if batch_first else (0, 1)))
    directions, rows, width = shapes[node.input[1]]
    hidden = shapes[node.input[2]][-1]
    return steps * batch * directions * rows * (width + hidden)


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Opset 23: Q, K and V have 3 axes, or 4 with the heads; a past adds keys."""
    query, key, value = (shapes[name] for name in node.input[:3])
    past = shapes[node.input[4]][2] if len(node.input) > 4 and node.input[4] else 0
    keys = key[-2] + past
    if len(query) == 4:
        return query[0] * query[1] * query[2] * keys * (query[3] + value[3])
    heads = {name: attributes(node)[f"{name}_num_heads"] for name in ("q", "kv")}
    size = value[2] // int(heads["kv"])
    return query[0] * query[1] * keys * (query[2] + int(heads["q"]) * size)


_ORT = "com.microsoft"


def _multi_head_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
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


def _group_query_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    batch, length, width = shapes[node.input[0]]
    heads = {key: int(attributes(node)[key]) for key in ("num_heads", "kv_num_heads")}
    packed = not node.input[1]
    count = heads["num_heads"] + (2 * heads["kv_num_heads"] if packed else 0)
    keys = length + _past(node, shapes, 3)
    return 2 * batch * length * keys * heads["num_heads"] * (width // count)


def _joined_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return the MACs of projecting to Q, K and V, and of attending; input [B, S, I]."""
    batch, length, _ = shapes[node.input[0]]
    weight = shapes[node.input[1]]
    past = shapes[node.input[4]][3] if len(node.input) > 4 and node.input[4] else 0
    return batch * length * (math.prod(weight) + 2 * (length + past) * weight[1] // 3)


def _past(node: onnx.NodeProto, shapes: Shapes, index: int) -> int:
    """Return how many keys a past of [B, heads, P, size] brings."""
    given = len(node.input) > index and node.input[index]
    return shapes[node.input[index]][2] if given else 0


_RULES: dict[tuple[str, str], Callable[[onnx.NodeProto, Shapes], int]] = {
    ("", "MatMul"): _product,
    ("", "Gemm"): _gemm,
    ("", "Conv"): _convolution,
    ("", "DeformConv"): _convolution,
    ("", "ConvTranspose"): lambda node, shapes: (
        math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    ),
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    **{("", op_type): _recurrent for op_type in RECURRENT},
    (_ORT, "FusedMatMul"): _product,
    (_ORT, "FusedGemm"): _gemm,
    (_ORT, "FusedConv"): _convolution,
    (_ORT, "Attention"): _joined_attention,
    (_ORT, "MultiHeadAttention"): _multi_head_attention,
    (_ORT, "GroupQueryAttention"): _group_query_attention,
    (_ORT, "MatMulNBits"): lambda node, shapes: (
        math.prod(shapes[node.output[0]]) * int(attributes(node)["K"])
    ),
}

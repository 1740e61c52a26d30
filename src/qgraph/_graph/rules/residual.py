"""Which Adds are residual: x + f(x), where f multiplies matrices.

Told by structure: one input is a tensor (its quantizers, activations and at most one convolution
aside) that the other is computed from, through a GEMM. A bias, the two halves of a rotary
embedding or a feature pyramid are no such thing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph

_PASSED = ("Relu", "Clip", "Identity", "Cast", "BatchNormalization", "LeakyRelu")
_PASSED_ON_A_SHORTCUT = (*_PASSED, "MaxPool", "AveragePool", QUANTIZE, DEQUANTIZE)
_LONGEST = 600
"""Nodes of one branch that are looked at: an attention block with its Q/DQ has about 150."""


@dataclass(frozen=True, slots=True)
class Residual:
    """`shortcut` and `deep`: the positions of its inputs. `gemm`: the GEMM that the deep branch
    ends in, bias, activations and Q/DQ aside; '' where it ends in none.
    """

    shortcut: int
    deep: int
    gemm: str


def residual(graph: QdqGraph, node: onnx.NodeProto) -> Residual | None:
    """Return the branches of an Add, None where it is not residual."""
    for convolutions in (0, 1):
        for shortcut in (0, 1):
            root = _root(graph, node.input[shortcut], convolutions)
            if _comes_through_a_gemm(graph, node.input[1 - shortcut], root):
                gemm = _last_gemm(graph, node.input[1 - shortcut])
                return Residual(shortcut, 1 - shortcut, gemm)
    return None


def _root(graph: QdqGraph, tensor: str, convolutions: int) -> str:
    """Return the tensor a shortcut starts from."""
    node = graph.producer.get(tensor)
    while node is not None:
        if node.op_type == "Conv" and convolutions:
            convolutions -= 1
        elif node.op_type not in _PASSED_ON_A_SHORTCUT:
            break
        tensor = node.input[0]
        node = graph.producer.get(tensor)
    return tensor


def _comes_through_a_gemm(graph: QdqGraph, tensor: str, root: str) -> bool:
    """Return whether `tensor` is computed from `root`, with a GEMM on the way."""
    waiting = deque([(tensor, False)])
    seen: set[tuple[str, bool]] = set()
    while waiting and len(seen) < _LONGEST:
        name, multiplied = waiting.popleft()
        if name == root:
            if multiplied:
                return True
            continue
        node = graph.producer.get(name)
        if node is None or (name, multiplied) in seen:
            continue
        seen.add((name, multiplied))
        waiting += [(item, multiplied or node.op_type in GEMMS) for item in _read(node)]
    return False


def _read(node: onnx.NodeProto) -> Iterator[str]:
    return (name for name in node.input if name)


def _last_gemm(graph: QdqGraph, tensor: str) -> str:
    node = graph.producer.get(tensor)
    while node is not None and node.op_type not in GEMMS:
        node = _above(graph, node)
    return node.name if node is not None else ""


def _above(graph: QdqGraph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return what made the one tensor a node goes on with: biases and scales are constants."""
    if node.op_type in (*_PASSED, QUANTIZE, DEQUANTIZE):
        return graph.producer.get(node.input[0])
    computed = [name for name in node.input if not graph.is_constant(name)]
    if node.op_type in ("Add", "Mul") and len(computed) == 1:
        return graph.producer.get(computed[0])
    return None

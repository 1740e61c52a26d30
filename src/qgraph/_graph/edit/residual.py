"""Which Adds are residual: x + f(x), where f multiplies matrices more often than the way of x does.

Told by structure: the *shortcut* is a tensor, or at most one convolution of it (activations,
poolings, norms of a batch and Q/DQ aside), and the *deep* branch is computed from that tensor
through more GEMMs. Two convolutions of the same tensor, a bias, the two halves of a rotary
embedding are no such thing: none of their branches is a shortcut.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import onnx

from qgraph._graph.edit.nodes import CONVOLUTIONS, GEMMS
from qgraph._graph.index import GraphIndex

_PASSED = {
    *("BatchNormalization", "Cast", "Clip", "Elu", "HardSwish", "Identity", "LeakyRelu", "Mish"),
    *("Relu", "Swish", "QuantizeLinear", "DequantizeLinear"),
}
_POOLINGS = {"AveragePool", "MaxPool"}
_GATES = ("HardSigmoid", "Sigmoid")
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


def residual(index: GraphIndex, node: onnx.NodeProto) -> Residual | None:
    """Return the branches of an Add, None where it is not residual."""
    if len(node.input) < 2 or any(index.is_constant(name) for name in node.input):
        return None
    for convolutions in (0, 1):
        for shortcut in (0, 1):
            deep = 1 - shortcut
            root = _root(index, node.input[shortcut], convolutions)
            if _comes_from(index, node.input[deep], root, convolutions + 1):
                return Residual(shortcut, deep, _last_gemm(index, node.input[deep]))
    return None


def _root(index: GraphIndex, tensor: str, convolutions: int) -> str:
    """Return the tensor a shortcut starts from, or one above it."""
    node = index.producer.get(tensor)
    while node is not None:
        above = _passed_on(index, node)
        if node.op_type in CONVOLUTIONS and convolutions:
            convolutions -= 1
            above = node.input[0]
        elif node.op_type in _POOLINGS:
            above = node.input[0]
        if above is None:
            break
        tensor = above
        node = index.producer.get(tensor)
    return tensor


def _comes_from(index: GraphIndex, tensor: str, root: str, gemms: int) -> bool:
    """Return whether `tensor` is computed from `root`, with as many GEMMs on the way."""
    waiting = deque([(tensor, gemms)])
    seen: set[tuple[str, int]] = set()
    while waiting and len(seen) < _LONGEST:
        name, missing = waiting.popleft()
        if name == root:
            if not missing:
                return True
            continue
        node = index.producer.get(name)
        if node is None or (name, missing) in seen:
            continue
        seen.add((name, missing))
        left = max(0, missing - (node.op_type in GEMMS))
        waiting += [(item, left) for item in node.input if item]
    return False


def _last_gemm(index: GraphIndex, tensor: str) -> str:
    node = index.producer.get(tensor)
    while node is not None and node.op_type not in GEMMS:
        node = index.producer.get(_passed_on(index, node) or "")
    return node.name if node is not None else ""


def _passed_on(index: GraphIndex, node: onnx.NodeProto) -> str | None:
    """Return the one tensor that a node goes on with, value by value; None where it does more."""
    if node.op_type in _PASSED:
        return str(node.input[0])
    if node.op_type not in ("Add", "Mul"):
        return None
    # biases and scales are constants; x·σ(…) is SiLU as exporters spell it, or an excitation
    computed = [name for name in node.input if not index.is_constant(name)]
    if len(computed) == 2 and node.op_type == "Mul":
        computed = [name for name in computed if not index.comes_from(name, *_GATES)]
    return str(computed[0]) if len(computed) == 1 else None

"""Residual Adds of convolutional networks: which of them get Q/DQ, and on which branch.

TensorRT computes `convolution + shortcut` in one INT8 kernel, or passes the sum on in INT8, where
the shortcut is quantized, and only the shortcut: Q/DQ on the convolution's branch would come
between it and the Add and break the fusion. So beside a quantized convolution the Add's shortcut
gets Q/DQ; such an Add is a *companion*, neither a candidate nor kept.

A residual Add has two branches that come from one tensor. The one with more convolutions ends in
the convolution it goes with; the other is the shortcut (straight, or a single downsampling
convolution). Adds without that shape (biases, feature pyramids, transformers) are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError

_ACTIVATIONS = {"Clip", "Elu", "HardSwish", "Identity", "LeakyRelu", "Mish", "Relu", "Swish"}
_GATES = {"HardSigmoid", "Sigmoid"}
_LONGEST = 24
"""Nodes of one branch that are looked at."""


@dataclass(frozen=True, slots=True)
class Companion:
    """`node`: the Add, its shortcut as its only activation; `beside`: the convolution at the end of
    its other branch, which decides whether it gets Q/DQ.
    """

    node: QuantizableNode
    beside: str


def find_companions(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode]
) -> tuple[Companion, ...]:
    """Return the residual Adds whose branch ends in one of the convolutions `nodes`."""
    convolutions = {node.name for node in nodes if node.op_type in ("Conv", "ConvTranspose")}
    if not convolutions:
        return ()
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for proto in model.graph.node:
        if proto.op_type == "Add" and proto.domain == "" and not constants & set(proto.input):
            companion = _companion(proto, producers)
            if companion is not None and companion.beside in convolutions:
                found.append(companion)
    return tuple(found)


def companions_named(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], names: Sequence[str]
) -> list[QuantizableNode]:
    """Return the companions a profile names, its quantized nodes being `nodes`.

    Raises:
        UsageError: a name is no residual Add beside one of them.
    """
    known = {companion.node.name: companion.node for companion in find_companions(model, nodes)}
    for name in names:
        if name not in known:
            raise UsageError(
                f"the companion {name!r} is no residual Add beside a quantized convolution",
                hint=f"There are: {', '.join(list(known)[:3]) or 'none'}",
            )
    return [known[name] for name in names]


def _companion(proto: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> Companion | None:
    trails = [_trail(name, producers) for name in proto.input]
    common = next((name for name in trails[0] if name in trails[1]), None)
    if common is None or trails[0][common] == trails[1][common]:
        return None
    shortcut = 0 if trails[0][common] < trails[1][common] else 1
    convolution = _last_convolution(proto.input[1 - shortcut], producers)
    if convolution is None:
        return None
    activations = ((shortcut, proto.input[shortcut]),)
    node = QuantizableNode(proto.name, proto.op_type, activations, None, proto.output[0])
    return Companion(node, convolution)


def _trail(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> dict[str, int]:
    """Return the tensors a branch comes from, the nearest first, with the convolutions between."""
    convolutions, trail = 0, {tensor: 0}
    while len(trail) < _LONGEST:
        node = producers.get(tensor)
        above = None if node is None else _above(node, producers) or _rescaled(node, producers)
        if node is None or above is None:
            break
        convolutions += node.op_type in ("Conv", "ConvTranspose")
        tensor = above
        trail[tensor] = convolutions
    return trail


def _above(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return what a node of one branch reads, None where the branch begins."""
    single = {"AveragePool", "BatchNormalization", "MaxPool"} | _ACTIVATIONS
    if node.op_type in ("Conv", "ConvTranspose") or node.op_type in single:
        return str(node.input[0])
    return _gated(node, producers)


def _gated(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return x of x·σ(…): SiLU as exporters spell it, or squeeze-and-excitation."""
    if node.op_type != "Mul":
        return None
    gates = [name in producers and producers[name].op_type in _GATES for name in node.input]
    return str(node.input[gates.index(False)]) if sorted(gates) == [False, True] else None


def _rescaled(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return what a product with a constant reads: smoothing puts one before a convolution."""
    computed = [str(name) for name in node.input if name in producers]
    return computed[0] if node.op_type == "Mul" and len(computed) == 1 else None


def _last_convolution(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> str | None:
    """Return the convolution a branch ends in, activations after it passed over."""
    for _ in range(_LONGEST):
        node = producers.get(tensor)
        if node is None:
            return None
        if node.op_type in ("Conv", "ConvTranspose"):
            return str(node.name)
        above = _above(node, producers)
        if above is None:
            return None
        tensor = above
    return None

"""The Gauss-Newton trace of a weight: a second-order lens, to compare rankings with.

With g the gradient of ⟨v, outputs⟩, v random signs, and x what a node reads, E‖Σ_t x_t ⊗ g_t‖²_F is
the trace of the Gauss-Newton matrix of the squared error in the node's weight W. Times the mean
square of what quantizing changes in W it is what HAWQ-V2 ranks by (Z. Dong et al., NeurIPS 2020),
with this matrix in place of the loss's Hessian: the damage, if that change had no direction and
activations were not quantized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode, Weight
from qgraph._graph.index import attributes
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array
from qgraph._sensitivity.engines.gradient.seeds import Builder

_PICTURE = 4
"""Axes of a picture: batch, channels, height, width."""


def has_trace(proto: onnx.NodeProto, node: QuantizableNode) -> bool:
    """Return whether the gradient of the node's weight is one product: of matrices, and of
    convolutions over pictures without groups.
    """
    if node.weight is None:
        return False
    given = attributes(proto)
    if node.op_type == "MatMul":
        return len(node.weight.shape) == 2 and node.weight.index == 1
    if node.op_type == "Gemm":
        return not given.get("transA") and given.get("alpha", 1.0) == 1.0 and node.weight.index == 1
    plain = given.get("group", 1) == 1 and given.get("auto_pad", b"NOTSET") == b"NOTSET"
    return node.op_type == "Conv" and plain and len(node.weight.shape) == _PICTURE


def add_trace(
    builder: Builder, proto: onnx.NodeProto, weight: Weight, read: str, gradient: str
) -> str:
    """Return ‖Σ x ⊗ g‖², a scalar, of what the node reads and of the gradient of its output, both
    float32.
    """
    if proto.op_type == "Conv":
        found = _of_convolution(builder, proto, weight, read, gradient)
    else:
        rows = [
            builder.add("Reshape", tensor, builder.numbers([-1, size]))
            for tensor, size in ((read, _reads(weight, proto)), (gradient, _makes(weight, proto)))
        ]
        found = builder.add("Gemm", *rows, transA=1)
    return builder.add("ReduceSumSquare", found, keepdims=0)


def _is_turned(proto: onnx.NodeProto) -> bool:
    return bool(attributes(proto).get("transB"))


def _reads(weight: Weight, proto: onnx.NodeProto) -> int:
    return weight.shape[1 if _is_turned(proto) else 0]


def _makes(weight: Weight, proto: onnx.NodeProto) -> int:
    return weight.shape[0 if _is_turned(proto) else 1]


def _of_convolution(
    builder: Builder, proto: onnx.NodeProto, weight: Weight, read: str, gradient: str
) -> str:
    """Return the gradient of a kernel: the input convolved with the gradient of the output, with
    samples for channels, and strides and dilations in each other's place.
    """
    given = attributes(proto)
    turned = [builder.add("Transpose", name, perm=[1, 0, 2, 3]) for name in (read, gradient)]
    whole = builder.add(
        "Conv",
        *turned,
        pads=given.get("pads", [0, 0, 0, 0]),
        strides=given.get("dilations", [1, 1]),
        dilations=given.get("strides", [1, 1]),
    )
    # rows that the stride never reaches make the result larger than the kernel
    ends = builder.numbers(weight.shape[2:])
    return builder.add("Slice", whole, builder.numbers([0, 0]), ends, builder.numbers([2, 3]))


def lenses(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    traces: Mapping[str, float],
    count: int,
) -> dict[str, float]:
    """Return node → trace of all samples × the mean square of what quantizing changes in the
    weight, over `count` numbers compared: in the units of MSE.
    """
    tensors = {item.name: item for item in model.graph.initializer}
    found = {}
    for node in nodes:
        if node.name in traces and node.weight is not None:
            weight = node.weight
            quantized = quantization.weights[weight.tensor, weight.axis]
            change = _mean_square(quantized, array_of(tensors[weight.tensor]))
            found[node.name] = traces[node.name] * change / max(1, count)
    return found


def _mean_square(a: Array, b: Array) -> float:
    rows = zip(a, b, strict=True)
    total = sum(
        float(np.square(x.astype(np.float32) - y.astype(np.float32)).sum()) for x, y in rows
    )
    return total / max(1, a.size)

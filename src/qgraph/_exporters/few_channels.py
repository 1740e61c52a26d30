"""A rule of several vision families: convolutions too narrow for INT8 to pay."""

from __future__ import annotations

import onnx

from qgraph._graph.edit.nodes import CONVOLUTIONS, QuantizableNode

FEWEST = 16
"""TensorRT's INT8 convolutions work on channels in multiples of 16 or more."""


def too_narrow(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
    """Return why a convolution with fewer than 16 channels in or out stays float, or None."""
    if node.op_type not in CONVOLUTIONS or node.weight is None:
        return None
    shape, groups = node.weight.shape, _groups(model, node)
    if len(shape) < 3:  # a weight of no convolution; the runtime says so
        return None
    if node.op_type == "Conv":
        outputs, inputs = shape[0], shape[1] * groups
    else:
        inputs, outputs = shape[0], shape[1] * groups
    if min(inputs, outputs) >= FEWEST:
        return None
    return f"a convolution of {inputs} to {outputs} channels; below {FEWEST}, INT8 gains no time"


def _groups(model: onnx.ModelProto, node: QuantizableNode) -> int:
    proto = next(item for item in model.graph.node if item.name == node.name)
    return next((item.i for item in proto.attribute if item.name == "group"), 1)

"""A quantized MatMul in whole numbers: INT8 by INT8, summed in INT32, scaled once.

The numbers are those of the product of dequantized operands, but for last bits: whole numbers add
up without rounding. Where the processor has an instruction for such products, they take a third of
the time. Activations are written as UINT8 around 128, for which onnxruntime has the fast kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np
import onnx
from onnx import helper

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.qdq import QuantizedWeight
from qgraph._graph.tensors import Array

ZERO = np.array(128, np.uint8)
"""What stands for 0 in an activation: all of INT8 lies around it."""
_MOST_TERMS = 1 << 16
"""Of a sum: so many products of 255 and 128 stay below 2³¹."""


class IntegerWeight:
    """A quantized weight whose values are made each time they are asked for; its scale is kept.

    Both are made at once, so whoever asks for the values first has the scale for nothing.
    """

    def __init__(self, make: Callable[[], QuantizedWeight]) -> None:
        self._make, self._lock = make, Lock()
        self._scale: Array | None = None

    def values(self) -> Array:
        """Return the whole numbers, int8 [K, N]."""
        with self._lock:
            made = self._make()
            self._scale = made.scale
        return made.values

    def scale(self) -> Array:
        """Return the scale, [N] or 0-D."""
        with self._lock:
            if self._scale is None:
                self._scale = self._make().scale
        return self._scale


def takes_integers(node: QuantizableNode) -> bool:
    """Return whether `node` is a product of an activation and a matrix that whole numbers do."""
    weight = node.weight
    if node.op_type != "MatMul" or weight is None or weight.index != 1:
        return False
    return len(weight.shape) == 2 and weight.axis in (1, None) and weight.shape[0] <= _MOST_TERMS


def integer_product(
    read: str, scale: str, zero: str, weight: tuple[str, str], made: str
) -> list[onnx.NodeProto]:
    """Return nodes that make `made`. `read`: the activation; `scale`: its own; `zero`: the name of
    `ZERO`; `weight`: the names of its values and scale.
    """
    values, along = weight
    quantized, summed, single, both = (f"{made}/{end}" for end in ("q", "sum", "single", "scale"))
    nodes = [
        helper.make_node("QuantizeLinear", [read, scale, zero], [quantized]),
        helper.make_node("MatMulInteger", [quantized, values, zero], [summed]),
        helper.make_node("Cast", [summed], [single], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [scale, along], [both]),
        helper.make_node("Mul", [single, both], [made]),
    ]
    for node in nodes:
        node.name = node.output[0]
    return nodes

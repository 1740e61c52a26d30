"""The rules of a proof that are about numbers: scales, zero points, quantized weights.

Numbered as in `_quantize.proof`, which says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import QGraphError
from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array


class ProofError(QGraphError):
    """An emitted model is not what its profile says: a defect of qgraph, not of the input."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class EmittedModel(GraphIndex):
    """The emitted graph, looked up. `data_type`: what its nodes shall be quantized to; `others`:
    node → another type, where it shall be that.
    """

    data_type: int
    others: Mapping[str, int] = field(default_factory=dict)

    def type_of(self, name: str) -> int:
        """Return what a node shall be quantized to."""
        return self.others.get(name, self.data_type)

    def zero_type(self, node: onnx.NodeProto) -> int:
        """Return the type of the zero point of a Q or DQ, 0 where it has none that is constant."""
        zero = self.initializers.get(node.input[2]) if len(node.input) > 2 else None
        return 0 if zero is None else zero.data_type

    def types_read(self, node: onnx.NodeProto) -> set[int]:
        """Return what the nodes that read a Q or DQ shall be quantized to."""
        readers = self.readers(node.output[0])
        if node.op_type == "QuantizeLinear":
            return {kind for reader in readers for kind in self.types_read(reader)}
        return {self.type_of(reader.name) for reader in readers}


def require(holds: bool, rule: int, name: str, what: str) -> None:  # noqa: FBT001
    """Check that a rule of the proof holds.

    Raises:
        ProofError: it does not.
    """
    if not holds:
        raise ProofError(
            f"{name!r} {what} (rule {rule} of the proof)",
            where="emitted model",
            hint="Please report this; the model was not written.",
        )


_HALF = 0.5 + 1e-3
"""Steps that a rounded value may be off."""


def check_weight(facts: EmittedModel, node: QuantizableNode) -> None:
    """Check the type, shape and scale of a weight that is dequantized (rules 1 and 5)."""
    if node.weight is None:
        return
    dequantizer = facts.producer[facts.by_name[node.name].input[node.weight.index]]
    values, scale = (facts.initializers.get(name) for name in dequantizer.input[:2])
    wanted_type = facts.type_of(node.name)
    typed = values is not None and values.data_type == wanted_type
    fits = typed and values is not None and tuple(values.dims) == node.weight.shape
    kind = onnx.TensorProto.DataType.Name(wanted_type)
    require(fits, 1, node.name, f"reads no {kind} weight of shape {list(node.weight.shape)}")
    axis = node.weight.axis
    wanted = () if axis is None else (node.weight.shape[axis],)
    same_axis = next((a.i for a in dequantizer.attribute if a.name == "axis"), None) == axis
    good = scale is not None and tuple(scale.dims) == wanted and same_axis
    require(good, 5, node.name, f"has a weight scale that is not {list(wanted)} on axis {axis}")


def check_values(
    facts: EmittedModel, node: QuantizableNode, weights: Mapping[str, onnx.TensorProto]
) -> None:
    """Check that the weight's quantized values are its own, each within half a step (rule 1)."""
    if node.weight is None:
        return
    dequantizer = facts.producer[facts.by_name[node.name].input[node.weight.index]]
    values, scale = facts.constant(dequantizer.input[0]), facts.constant(dequantizer.input[1])
    if values is None or scale is None:
        return
    wanted, data_type = array_of(weights[node.weight.tensor]), facts.type_of(node.name)
    shape = [1] * wanted.ndim
    if node.weight.axis is not None:
        shape[node.weight.axis] = -1
    for first in range(0, max(1, wanted.shape[0]), _rows_of(wanted)):
        rows = slice(first, first + _rows_of(wanted))
        part = scale[rows] if node.weight.axis == 0 else scale
        steps = wanted[rows].astype(np.float64) / part.astype(np.float64).reshape(shape)
        near = np.abs(values[rows].astype(np.float64) - _reached(steps, data_type))
        # the division that rounded was float32's
        own = bool((near <= _HALF * _spacing(steps, data_type)).all())
        require(own, 1, node.name, "has quantized values that are not its weight's")


def _rows_of(matrix: Array) -> int:
    """Return how many rows are looked at at once: copies that a processor's cache holds."""
    return max(1, (1 << 18) * matrix.shape[0] // max(1, matrix.size))


def _reached(steps: Array, data_type: int) -> Array:
    """Return `steps` held within what the type reaches."""
    low, high = (-448, 448) if data_type == onnx.TensorProto.FLOAT8E4M3FN else (-128, 127)
    held: Array = np.clip(steps, low, high)
    return held


def _spacing(steps: Array, data_type: int) -> Array:
    """Return how far apart the type's numbers are around each of `steps`.

    E4M3 has three bits after the leading one, and the smallest leading bit is 2⁻⁶.
    """
    if data_type != onnx.TensorProto.FLOAT8E4M3FN:
        return np.ones(())
    exponent = np.frexp(_reached(steps, data_type))[1] - 1
    spacing: Array = np.ldexp(1.0, np.maximum(exponent, -6) - 3)
    return spacing


def check_types(
    facts: EmittedModel, node: QuantizableNode, weights: Mapping[str, onnx.TensorProto]
) -> None:
    """Check that scales have the weight's float type (rule 7)."""
    if node.weight is None:
        return
    wanted = weights[node.weight.tensor].data_type
    for index in (*(index for index, _ in node.activations), node.weight.index):
        dequantizer = facts.producer[facts.by_name[node.name].input[index]]
        scale = facts.initializers.get(dequantizer.input[1])
        same = scale is not None and scale.data_type == wanted
        require(same, 7, node.name, f"reads {dequantizer.output[0]!r} in another float type")


def check_numbers(facts: EmittedModel, node: onnx.NodeProto) -> None:
    """Check the scale and zero point of a Q or DQ (rules 4 and 5)."""
    complete = len(node.input) == 3
    require(complete, 4, node.name, "has no zero point")
    scale, zero = facts.constant(node.input[1]), facts.constant(node.input[2])
    require(scale is not None and zero is not None, 4, node.name, "has no constant scale")
    if scale is None or zero is None:
        return
    good = bool(np.isfinite(scale).all() and (scale > 0).all())
    require(good, 4, node.name, "has a scale that is not positive and finite")
    typed = facts.types_read(node) <= {facts.zero_type(node)}
    require(typed and not zero.any(), 4, node.name, "has another zero point")
    values = facts.initializers.get(node.input[0])
    axis = attributes(node).get("axis")
    if values is None or axis is None:
        require(scale.shape == (), 5, node.name, f"has a scale of shape {list(scale.shape)}")
    else:
        wanted = (values.dims[axis],)
        require(scale.shape == wanted, 5, node.name, f"has a scale of shape {list(scale.shape)}")

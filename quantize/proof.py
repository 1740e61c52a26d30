"""Reading an emitted model again and proving that it is what its profile says.

The proof looks at the graph alone and shares nothing with the surgery that made it. Numbered as
in the code:

1. Every quantized node reads a DequantizeLinear on each activation and on its weight: that of the
   tensor it read in the float model, or of quantized values, each within half a step of the
   weight's, which may be clipped to what the type reaches.
2. No other input of any node differs from the float model: excluded nodes read the untouched
   tensors, a bias stays float, constants keep their values. Only where biases were corrected does
   a quantized node's own bias (or that of the Add behind it) read another float constant.
3. A Q is read by DQs only, and no tensor has two Qs.
4. Every scale is positive and finite; every zero point is present, of the type
   that was asked for (INT8, or FP8 E4M3FN), and 0.
5. A weight's scale has one entry per output channel; an activation's is a scalar.
6. Every node of the float model is still there, with its operator, outputs and attributes.
7. Every scale of a node with a weight has the weight's float type, so that no operand comes out of
   its DequantizeLinear in another precision than the node computes in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graph.edit.biases import Bias
from graph.edit.nodes import QUANTIZABLE, QuantizableNode
from graph.errors import QGraphError
from graph.io.weights import array_of
from graph.tensors import Array

_BIAS = 2
"""Input of a Gemm or convolution."""


@dataclass(frozen=True, slots=True)
class Proof:
    """`quantized` nodes read Q/DQ, `untouched` nodes of the float model read none."""

    quantized: int
    untouched: int
    activations: int


class ProofError(QGraphError):
    """An emitted model is not what its profile says: a defect of qgraph, not of the input."""

    exit_code = 1


def prove(
    emitted: onnx.ModelProto,
    source: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    data_type: int = onnx.TensorProto.INT8,
    corrected: Mapping[str, Bias] | None = None,
) -> Proof:
    """Return the counts of what was proved; `data_type` is what `nodes` shall be quantized to,
    `corrected`: node → its bias, which has other values.

    Raises:
        ProofError: a rule is broken; the message names rule and node.
    """
    facts = _Facts(emitted, data_type)
    quantized = {node.name: node for node in nodes}
    originals = {node.name: node for node in source.graph.node}
    _check_all_there(facts, originals.values())
    biases = _check_biases(facts, originals, quantized, corrected or {})
    for name, original in originals.items():
        _check_reads(facts, original, quantized.get(name), biases.get(name))
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    for node in nodes:
        _check_weight(facts, node)
    for name in facts.initializers.keys() & weights.keys():
        found, wanted = facts.initializers[name], weights[name]
        # the same place on the disk holds the same values: that is not read
        same = found == wanted or np.array_equal(array_of(found), array_of(wanted))
        _require(same, 2, name, "is a constant with other values")
    for node in facts.of("QuantizeLinear"):
        _check_quantizer(facts, node)
    _check_one_quantizer_a_tensor(facts)
    for node in (*facts.of("QuantizeLinear"), *facts.of("DequantizeLinear")):
        _check_numbers(facts, node)
    for node in nodes:
        _check_values(facts, node, weights)
        _check_types(facts, node, weights)
    activations = len(list(facts.of("QuantizeLinear")))
    counted = sum(node.op_type in QUANTIZABLE for node in nodes)
    return Proof(counted, len(originals) - len(quantized), activations)


class _Facts:
    """The emitted graph, looked up."""

    def __init__(self, model: onnx.ModelProto, data_type: int) -> None:
        self.data_type = data_type
        self._nodes = list(model.graph.node)
        self.by_name: Mapping[str, onnx.NodeProto] = {node.name: node for node in self._nodes}
        self.producer = {name: node for node in self._nodes for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}

    def of(self, op_type: str) -> Iterable[onnx.NodeProto]:
        return (node for node in self._nodes if node.op_type == op_type)

    def comes_from(self, tensor: str, op_type: str) -> bool:
        return tensor in self.producer and self.producer[tensor].op_type == op_type

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return self._readers.get(tensor, [])

    def constant(self, tensor: str) -> Array | None:
        found = self.initializers.get(tensor)
        return None if found is None else array_of(found)


def _check_all_there(facts: _Facts, originals: Iterable[onnx.NodeProto]) -> None:
    for original in originals:
        _require(original.name in facts.by_name, 6, original.name, "is gone")
        found = facts.by_name[original.name]
        same = found.op_type == original.op_type and found.output == original.output
        same = same and _settings(found) == _settings(original)
        _require(same, 6, original.name, "computes something else")


def _settings(node: onnx.NodeProto) -> dict[str, bytes]:
    """Return attributes; bodies are left out, which graph-surgeon writes in its own way."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return {
        item.name: item.SerializeToString(deterministic=True)
        for item in node.attribute
        if item.type not in kinds
    }


def _check_biases(
    facts: _Facts,
    originals: Mapping[str, onnx.NodeProto],
    quantized: Mapping[str, QuantizableNode],
    corrected: Mapping[str, Bias],
) -> dict[str, int]:
    """Return node → the input that may read another constant: a quantized node's own bias."""
    for name, bias in corrected.items():
        reader, node = originals[bias.reader], quantized.get(name)
        own = bias.reader == name and bias.index == _BIAS
        behind = reader.op_type == "Add" and node and reader.input[1 - bias.index] == node.output
        what = f"holds no bias of a quantized {name!r}, and was corrected"
        _require(node is not None and bool(own or behind), 2, bias.reader, what)
        held = facts.initializers.get(facts.by_name[bias.reader].input[bias.index])
        same = held is not None and tuple(held.dims) == bias.shape
        _require(same, 2, bias.reader, f"reads no bias of shape {list(bias.shape)}")
    return {bias.reader: bias.index for bias in corrected.values()}


def _check_reads(
    facts: _Facts, original: onnx.NodeProto, node: QuantizableNode | None, bias: int | None
) -> None:
    name, inputs = original.name, facts.by_name[original.name].input
    activations = {index for index, _ in node.activations} if node else set()
    weights = {node.weight.index} if node and node.weight else set()
    _require(len(inputs) == len(original.input), 2, name, "has another number of inputs")
    for index, (tensor, before) in enumerate(zip(inputs, original.input, strict=True)):
        if index == bias:
            continue
        if index not in activations | weights:
            _require(tensor == before, 2, name, f"reads {tensor!r}, not {before!r} untouched")
            continue
        reads = facts.comes_from(tensor, "DequantizeLinear")
        _require(reads, 1, name, f"reads {tensor!r} unquantized")
        if index in activations:
            quantized = facts.producer[tensor].input[0]
            from_q = facts.comes_from(quantized, "QuantizeLinear")
            right = from_q and facts.producer[quantized].input[0] == before
            _require(right, 1, name, f"reads {tensor!r}, which is not {before!r} quantized")


def _check_weight(facts: _Facts, node: QuantizableNode) -> None:
    """Check a weight that is known to come from a DequantizeLinear."""
    if node.weight is None:
        return
    dequantizer = facts.producer[facts.by_name[node.name].input[node.weight.index]]
    values, scale = (facts.initializers.get(name) for name in dequantizer.input[:2])
    typed = values is not None and values.data_type == facts.data_type
    fits = typed and values is not None and tuple(values.dims) == node.weight.shape
    kind = onnx.TensorProto.DataType.Name(facts.data_type)
    _require(fits, 1, node.name, f"reads no {kind} weight of shape {list(node.weight.shape)}")
    axis = node.weight.axis
    wanted = () if axis is None else (node.weight.shape[axis],)
    same_axis = next((a.i for a in dequantizer.attribute if a.name == "axis"), None) == axis
    good = scale is not None and tuple(scale.dims) == wanted and same_axis
    _require(good, 5, node.name, f"has a weight scale that is not {list(wanted)} on axis {axis}")


def _check_values(
    facts: _Facts, node: QuantizableNode, weights: Mapping[str, onnx.TensorProto]
) -> None:
    """Check that the weight's quantized values are its own: each within half a step."""
    if node.weight is None:
        return
    dequantizer = facts.producer[facts.by_name[node.name].input[node.weight.index]]
    values, scale = facts.constant(dequantizer.input[0]), facts.constant(dequantizer.input[1])
    if values is None or scale is None:
        return
    wanted = array_of(weights[node.weight.tensor])
    shape = [1] * wanted.ndim
    if node.weight.axis is not None:
        shape[node.weight.axis] = -1
    for first in range(0, max(1, wanted.shape[0]), _rows_of(wanted)):
        rows = slice(first, first + _rows_of(wanted))
        part = scale[rows] if node.weight.axis == 0 else scale
        steps = wanted[rows].astype(np.float64) / part.astype(np.float64).reshape(shape)
        near = np.abs(values[rows].astype(np.float64) - _reached(steps, facts.data_type))
        # the division that rounded was float32's
        own = bool((near <= _HALF * _spacing(steps, facts.data_type)).all())
        _require(own, 1, node.name, "has quantized values that are not its weight's")


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


def _check_types(
    facts: _Facts, node: QuantizableNode, weights: Mapping[str, onnx.TensorProto]
) -> None:
    if node.weight is None:
        return
    wanted = weights[node.weight.tensor].data_type
    for index in (*(index for index, _ in node.activations), node.weight.index):
        dequantizer = facts.producer[facts.by_name[node.name].input[index]]
        scale = facts.initializers.get(dequantizer.input[1])
        same = scale is not None and scale.data_type == wanted
        _require(same, 7, node.name, f"reads {dequantizer.output[0]!r} in another float type")


_HALF = 0.5 + 1e-3


def _check_quantizer(facts: _Facts, node: onnx.NodeProto) -> None:
    readers = facts.readers(node.output[0])
    only_dq = bool(readers) and all(item.op_type == "DequantizeLinear" for item in readers)
    _require(only_dq and node.output[0] not in facts.outputs, 3, node.name, "is read by others")


def _check_one_quantizer_a_tensor(facts: _Facts) -> None:
    counts = Counter(node.input[0] for node in facts.of("QuantizeLinear"))
    for tensor, count in counts.items():
        _require(count == 1, 3, tensor, f"has {count} QuantizeLinear nodes")


def _check_numbers(facts: _Facts, node: onnx.NodeProto) -> None:
    complete = len(node.input) == 3
    _require(complete, 4, node.name, "has no zero point")
    scale, zero = facts.constant(node.input[1]), facts.constant(node.input[2])
    _require(scale is not None and zero is not None, 4, node.name, "has no constant scale")
    if scale is None or zero is None:
        return
    good = bool(np.isfinite(scale).all() and (scale > 0).all())
    _require(good, 4, node.name, "has a scale that is not positive and finite")
    typed = facts.initializers[node.input[2]].data_type == facts.data_type
    _require(typed and not zero.any(), 4, node.name, "has another zero point")
    values = facts.initializers.get(node.input[0])
    axis = next((item.i for item in node.attribute if item.name == "axis"), None)
    if values is None or axis is None:
        _require(scale.shape == (), 5, node.name, f"has a scale of shape {list(scale.shape)}")
    else:
        wanted = (values.dims[axis],)
        _require(scale.shape == wanted, 5, node.name, f"has a scale of shape {list(scale.shape)}")


def _require(holds: bool, rule: int, name: str, what: str) -> None:  # noqa: FBT001
    if not holds:
        raise ProofError(
            f"{name!r} {what} (rule {rule} of the proof)",
            where="emitted model",
            hint="Please report this; the model was not written.",
        )

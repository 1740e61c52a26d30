"""Reading an emitted model again and proving that it is what its profile says.

The proof looks at the graph alone and shares nothing with the surgery that made it. Numbered as
in the code:

1. Every quantized node reads a DequantizeLinear on each activation and on its weight: that of the
   tensor it read in the float model, or of quantized values, each within half a step of the
   weight's, which may be clipped to what the type reaches.
2. No other input of any node differs from the float model: excluded nodes read the untouched
   tensors, a bias stays float, constants keep their values; a vector may be spelled as a row.
3. A Q is read by DQs only, and no tensor has two Qs of one type.
4. Every scale is positive and finite; every zero point is present, of the type
   that was asked for (INT8, or FP8 E4M3FN) of every node that reads it, and 0.
5. A weight's scale has one entry per output channel; an activation's is a scalar.
6. Every node of the float model is still there, with its operator, outputs and attributes.
7. Every scale of a node with a weight has the weight's float type, so that no operand comes out of
   its DequantizeLinear in another precision than the node computes in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx

from qgraph._graph.edit.nodes import GEMMS, QuantizableNode
from qgraph._graph.io.weights import array_of
from qgraph._quantize.proof_numbers import (
    EmittedModel,
    ProofError,
    check_numbers,
    check_types,
    check_values,
    check_weight,
    require,
)

__all__ = ["Proof", "ProofError", "prove"]


@dataclass(frozen=True, slots=True)
class Proof:
    """`quantized` nodes read Q/DQ, `untouched` nodes of the float model read none."""

    quantized: int
    untouched: int
    activations: int


def prove(
    emitted: onnx.ModelProto,
    source: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    data_type: int = onnx.TensorProto.INT8,
    others: Mapping[str, int] = MappingProxyType({}),
) -> Proof:
    """Return the counts of what was proved; `data_type` is what `nodes` shall be quantized to,
    `others`: node → the type where it is another.

    Raises:
        ProofError: a rule is broken; the message names rule and node.
    """
    facts = EmittedModel(emitted, data_type, others)
    quantized = {node.name: node for node in nodes}
    originals = {node.name: node for node in source.graph.node}
    _check_all_there(facts, originals.values())
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    for name, original in originals.items():
        rows = _rows(facts, original, weights)
        _check_reads(facts, original, quantized.get(name), rows)
    for node in nodes:
        check_weight(facts, node)
    for name in facts.initializers.keys() & weights.keys():
        found, wanted = facts.initializers[name], weights[name]
        # the same place on the disk holds the same values: that is not read
        same = found == wanted or np.array_equal(array_of(found), array_of(wanted))
        require(same, 2, name, "is a constant with other values")
    for node in facts.of("QuantizeLinear"):
        _check_quantizer(facts, node)
    _check_one_quantizer_a_tensor(facts)
    for node in (*facts.of("QuantizeLinear"), *facts.of("DequantizeLinear")):
        check_numbers(facts, node)
    for node in nodes:
        check_values(facts, node, weights)
        check_types(facts, node, weights)
    activations = len(list(facts.of("QuantizeLinear")))
    counted = sum(node.op_type in GEMMS for node in nodes)
    return Proof(counted, len(originals) - len(quantized), activations)


def _check_all_there(facts: EmittedModel, originals: Iterable[onnx.NodeProto]) -> None:
    for original in originals:
        require(original.name in facts.by_name, 6, original.name, "is gone")
        found = facts.by_name[original.name]
        same = found.op_type == original.op_type and found.output == original.output
        same = same and _settings(found) == _settings(original)
        require(same, 6, original.name, "computes something else")


def _settings(node: onnx.NodeProto) -> dict[str, bytes]:
    """Return attributes; bodies are left out, which graph-surgeon writes in its own way."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return {
        item.name: item.SerializeToString(deterministic=True)
        for item in node.attribute
        if item.type not in kinds
    }


def _rows(
    facts: EmittedModel, original: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]
) -> set[int]:
    """Return the inputs of an Add that read the row of a vector that the float model reads."""
    if original.op_type != "Add":
        return set()
    found = set()
    pairs = zip(facts.by_name[original.name].input, original.input, strict=False)
    for index, (tensor, before) in enumerate(pairs):
        row, vector = facts.initializers.get(tensor), weights.get(before)
        if tensor != before and row is not None and vector is not None:
            same = row.data_type == vector.data_type and list(row.dims) == [1, *vector.dims]
            if same and np.array_equal(array_of(row)[0], array_of(vector), equal_nan=True):
                found.add(index)
    return found


def _check_reads(
    facts: EmittedModel,
    original: onnx.NodeProto,
    node: QuantizableNode | None,
    rows: Collection[int],
) -> None:
    name, inputs = original.name, facts.by_name[original.name].input
    activations = {index for index, _ in node.activations} if node else set()
    weights = {node.weight.index} if node and node.weight else set()
    require(len(inputs) == len(original.input), 2, name, "has another number of inputs")
    for index, (tensor, before) in enumerate(zip(inputs, original.input, strict=True)):
        if index in rows:
            continue
        if index not in activations | weights:
            require(tensor == before, 2, name, f"reads {tensor!r}, not {before!r} untouched")
            continue
        reads = facts.comes_from(tensor, "DequantizeLinear")
        require(reads, 1, name, f"reads {tensor!r} unquantized")
        if index in activations:
            quantized = facts.producer[tensor].input[0]
            from_q = facts.comes_from(quantized, "QuantizeLinear")
            right = from_q and facts.producer[quantized].input[0] == before
            require(right, 1, name, f"reads {tensor!r}, which is not {before!r} quantized")


def _check_quantizer(facts: EmittedModel, node: onnx.NodeProto) -> None:
    readers = facts.readers(node.output[0])
    only_dq = bool(readers) and all(item.op_type == "DequantizeLinear" for item in readers)
    require(only_dq and node.output[0] not in facts.outputs, 3, node.name, "is read by others")


def _check_one_quantizer_a_tensor(facts: EmittedModel) -> None:
    made = facts.of("QuantizeLinear")
    counts = Counter((node.input[0], facts.zero_type(node)) for node in made)
    for (tensor, _), count in counts.items():
        require(count == 1, 3, tensor, f"has {count} QuantizeLinear nodes of one type")

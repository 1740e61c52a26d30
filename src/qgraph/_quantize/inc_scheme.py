"""The scheme `inc-cpu`: the numbers of Intel Neural Compressor's CPU scheme.

Written from INC 3.7.1 (`adaptor/ox_utils`: `calibration.py`, `util.py`, `quantizer.py`); a test
holds INC's own Q/DQ models against it. Activations are uint8 asymmetric, per-tensor; weights int8
symmetric, per output channel; a bias is int32 in steps of input scale · weight scale.
Where the Q/DQ stand is told by `_graph.edit.tensor_switches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.qdq import QuantizedWeight
from qgraph._graph.edit.tensor_switches import Affine, TensorQuantization
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.weights import array_of
from qgraph._graph.keep import Keep
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array
from qgraph._quantize.selection import Selection

FOLLOWERS = frozenset(
    {
        *("Abs", "Add", "ArgMax", "Attention", "AveragePool", "BatchNormalization", "BiasGelu"),
        *("CenterCropPad", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Elu"),
        *("EmbedLayerNormalization", "Equal", "Exp", "Expand", "FastGelu", "Flatten", "FusedConv"),
        *("FusedMatMul", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm"),
        *("GlobalAveragePool", "Greater", "GreaterOrEqual", "LSTM", "LayerNormalization"),
        *("LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "MaxPool", "Mod", "Mul", "Pad"),
        *("Pow", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
        *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu"),
        *("Reshape", "Resize", "Round", "Shrink", "Sigmoid", "Sign", "Slice", "Softmax"),
        *("Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile"),
        *("Transpose", "Unsqueeze", "Upsample"),
    }
)
"""The operators INC has a class for: those read a tensor dequantized once anyone has it so."""

_STEPS = 255
_WEIGHT_STEPS = 254
"""Twice 127: INC divides the doubled largest magnitude."""


def as_inc_selects(model: onnx.ModelProto, selection: Selection) -> Selection:
    """Return the selection without the candidates that INC does not quantize, with reasons."""
    index = GraphIndex(model)
    kept = {keep.name: keep for keep in selection.kept}
    candidates = []
    for node in selection.candidates:
        inputs = index.by_name[node.name].input
        floating = len(inputs) > 2 and inputs[2] not in index.initializers
        if node.weight is None or node.op_type == "ConvTranspose" or floating:
            kept[node.name] = Keep(node.name, "Intel Neural Compressor does not quantize it")
        else:
            candidates.append(node)
    order = tuple(kept[name] for name in selection.op_types if name in kept)
    return Selection(tuple(candidates), order, selection.op_types)


def tensors_to_calibrate(nodes: Sequence[QuantizableNode]) -> list[str]:
    """Return the activations that the scheme quantizes: what nodes read and what they make."""
    return list(
        dict.fromkeys(
            name for node in nodes for name in (*(t for _, t in node.activations), node.output)
        )
    )


def inc_parameters(
    model: onnx.ModelProto, nodes: Sequence[QuantizableNode], ranges: Mapping[str, Range]
) -> TensorQuantization:
    """Return what `nodes` compute with when quantized as INC does.

    Raises:
        InputError: a weight is not float32, or holds NaN or infinity.
        UsageError: a tensor was not calibrated.
    """
    index = GraphIndex(model)
    tensors = index.initializers
    wanted = tensors_to_calibrate(nodes)
    _require_ranges(wanted, ranges)
    activations = {
        name: activation_parameters(_clipped(index, name, ranges[name])) for name in wanted
    }
    weights: dict[str, QuantizedWeight] = {}
    biases: dict[str, QuantizedWeight] = {}
    for node in nodes:
        assert node.weight is not None  # noqa: S101 - as_inc_selects left none without
        weight = weights[node.name] = _weight(tensors[node.weight.tensor], node.weight.axis or 0)
        proto = index.by_name[node.name]
        if len(proto.input) > 2:
            beta = np.float32(attributes(proto).get("beta", 1.0))
            step = activations[proto.input[0]].scale * weight.scale * beta
            values = np.rint(_float32(tensors[proto.input[2]]) / step).astype(np.int32)
            biases[node.name] = QuantizedWeight(values, step, 0)
    return TensorQuantization(weights, biases, activations)


def _weight(tensor: onnx.TensorProto, axis: int) -> QuantizedWeight:
    weight = _float32(tensor)
    scale = inc_weight_scale(weight, axis)
    return QuantizedWeight(np.rint(weight / scale).astype(np.int8), scale.reshape(-1), axis)


def _require_ranges(wanted: Sequence[str], ranges: Mapping[str, Range]) -> None:
    for name in wanted:
        if name not in ranges:
            raise UsageError(
                f"no range of tensor {name!r}",
                where="ranges",
                hint="Calibrate again with the same --include.",
            )


def activation_parameters(seen: Range) -> Affine:
    """Return scale and uint8 zero point; the range is widened to hold 0."""
    low, high = min(seen.rmin, 0.0), max(seen.rmax, 0.0)
    scale = (high - low) / _STEPS if high != low else 1.0
    zero = 0 if scale == 1.0 else min(255, max(0, round(-low / scale)))
    return Affine(np.asarray(scale, np.float32), np.asarray(zero, np.uint8))


def inc_weight_scale(weight: Array, axis: int) -> Array:
    """Return float32 scales along `axis`, in a shape that broadcasts; 1 for a channel of zeros."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True).astype(np.float32)
    scale: Array = ((peak * np.float32(2)).astype(np.float64) / _WEIGHT_STEPS).astype(np.float32)
    return np.where(peak > 0, scale, np.float32(1))


def _clipped(index: GraphIndex, name: str, seen: Range) -> Range:
    """Return the range that is left behind a Relu or Clip which alone reads the tensor."""
    readers = [node for node in index.readers(name) if name in node.input]  # INC sees no bodies
    if len(readers) != 1:
        return seen
    low, high = min(seen.rmin, 0.0), max(seen.rmax, 0.0)
    reader = readers[0]
    if reader.op_type == "Relu":
        return Range(max(low, 0.0), high)
    if reader.op_type == "Clip" and len(reader.input) == 3:
        least, most = (index.initializers.get(bound) for bound in reader.input[1:])
        low = max(low, float(array_of(least))) if least is not None else low
        high = min(high, float(array_of(most))) if most is not None else high
        return Range(low, high)
    return seen


def _float32(tensor: onnx.TensorProto) -> Array:
    array: Array = array_of(tensor)
    if array.dtype != np.float32 or not np.isfinite(array).all():
        raise InputError(
            f"found {array.dtype}, or NaN or infinity in it; expected finite float32",
            where=f"tensor {tensor.name!r}",
            hint="The scheme inc-cpu is for float32 models; export with --dtype fp32.",
        )
    return array

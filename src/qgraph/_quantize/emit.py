"""Writing the Q/DQ model of a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import GEMMS, QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.qdq import QdqParameters, QuantizedWeight, insert_qdq
from qgraph._graph.edit.rows import spell_biases_as_rows
from qgraph._graph.errors import InputError
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize import arithmetic
from qgraph._quantize.arithmetic import INT8, Grid
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, WeightScale
from qgraph._quantize.store import WeightStore

_PLAIN = Scheme()


@dataclass(frozen=True, slots=True)
class QuantizedPart:
    """Nodes and what they are quantized to: ranges of what they read, and the scheme."""

    nodes: Sequence[QuantizableNode]
    ranges: Mapping[str, Range]
    scheme: Scheme


def emit(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    provenance: Provenance,
    store: WeightStore | None = None,
    others: Sequence[QuantizedPart] = (),
) -> onnx.ModelProto:
    """Return the model in which exactly `nodes` are quantized, and those of `others`, each under
    its own scheme. A tensor that nodes of two schemes read has a Q for each.

    Quantized weights stay in `store`, if one is given, and are shared with its other models.

    Raises:
        InputError: a weight holds NaN or infinity.
    """
    hold, model = tensor_from if store is None else store.hold, prepared.model
    parts = [QuantizedPart(nodes, ranges, provenance.scheme or _PLAIN), *others]
    for part in parts:
        made = quantization_parameters(prepared.model, part.nodes, part.ranges, part.scheme)
        if store is not None:
            made = replace(made, weights=store.once(made.weights, part.scheme, prepared.model))
        model = insert_qdq(model, part.nodes, made, hold)
    quantized = [node for part in parts for node in part.nodes]
    spell_biases_as_rows(model, quantized)
    model.producer_name = "qgraph"
    model.producer_version = provenance.version
    provenance.write(model, sum(node.op_type in GEMMS for node in quantized))
    return model


def quantization_parameters(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    scheme: Scheme = _PLAIN,
) -> QdqParameters:
    """Return the scales and quantized weights of `nodes`; a weight is made when it is asked for.

    Asking raises InputError where the weight holds NaN or infinity.
    """
    return parameters_of(GraphIndex(model), nodes, ranges, scheme)


def parameters_of(
    index: GraphIndex,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    scheme: Scheme,
) -> QdqParameters:
    """Return the same of a model that is looked up in `index`."""
    tensors = index.initializers
    weights: dict[tuple[str, int | None], Callable[[], QuantizedWeight]] = {}
    scales: dict[str, Array] = {}
    for node in nodes:
        dtype = numpy_dtype(tensors, node)
        for _, name in node.activations:
            own = dtype if node.weight is not None else _declared_dtype(index, name, dtype)
            scales[name] = arithmetic.activation_scale(ranges[name], own, scheme.grid)
        if node.weight is not None:
            weight = node.weight
            weights[weight.tensor, weight.axis] = partial(
                quantized_weight, tensors[weight.tensor], weight.axis, scheme
            )
    return QdqParameters(OnDemand(weights), scales, scheme.grid.dtype)


def fake_quantization(parameters: QdqParameters) -> FakeQuantization:
    """Return what a switch graph needs to compute the same numbers as the emitted model."""
    quantized = parameters.weights

    def made(key: tuple[str, int | None]) -> Array:
        weight = quantized[key]
        return arithmetic.dequantize(weight.values, weight.scale, weight.axis)

    weights = OnDemand({key: partial(made, key) for key in quantized})
    return FakeQuantization(
        weights, parameters.scales, parameters.dtype, integers=parameters.weights
    )


def parts_apart(
    nodes: Sequence[QuantizableNode], ranges: Ranges, apart: Mapping[str, Scheme]
) -> list[QuantizedPart]:
    """Return the nodes that have another scheme than `ranges`, by their own. `apart`: node → it.

    Raises:
        UsageError: `ranges` hold none for a scheme.
    """
    schemes = {str(scheme): scheme for scheme in apart.values()}
    members = {
        text: [node for node in nodes if str(apart.get(node.name)) == text] for text in schemes
    }
    return [
        QuantizedPart(members[text], ranges.under(scheme), scheme)
        for text, scheme in schemes.items()
        if members[text]
    ]


def mixed_quantization(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    ranges: Ranges,
    apart: Mapping[str, Scheme],
) -> FakeQuantization:
    """Return what a switch graph needs to compute the same numbers as the model emitted of `nodes`
    under the scheme of `ranges`, or the one that `apart` has for them.

    Raises:
        UsageError: `ranges` hold none for a scheme.
    """

    def of(item: QuantizedPart) -> FakeQuantization:
        made = quantization_parameters(model, item.nodes, item.ranges, item.scheme)
        return fake_quantization(made)

    whole = of(QuantizedPart(nodes, ranges.by_name(), ranges.scheme))
    others = [(part, of(part)) for part in parts_apart(nodes, ranges, apart)]
    return replace(whole, others={node.name: made for part, made in others for node in part.nodes})


def numpy_dtype(
    tensors: Mapping[str, onnx.TensorProto], node: QuantizableNode
) -> np.dtype[np.generic]:
    """Return the float dtype a node computes in: its weight's, float32 for a product."""
    if node.weight is None:
        return np.dtype(np.float32)
    data_type = tensors[node.weight.tensor].data_type
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))


def _declared_dtype(
    index: GraphIndex, tensor: str, otherwise: np.dtype[np.generic]
) -> np.dtype[np.generic]:
    """Return the dtype the graph gives a tensor, or lets infer."""
    known = index.types.get(tensor)
    return otherwise if known is None else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(known))


def quantized_weight(tensor: onnx.TensorProto, axis: int | None, scheme: Scheme) -> QuantizedWeight:
    """Return a weight in whole numbers, or FP8, with a scale for each index along `axis`.

    Raises:
        InputError: it holds NaN or infinity.
    """
    weight = array_of(tensor)
    scale = weight_scale(weight, axis, scheme.weights, scheme.grid)
    if not np.isfinite(scale).all():
        index = tuple(map(int, np.argwhere(~np.isfinite(weight))[0]))
        raise InputError(
            f"the weight holds {weight[index]} at {list(index)}",
            where=f"tensor {tensor.name!r}",
            hint="Mend the checkpoint; kept float, its nodes would compute no number either.",
        )
    return QuantizedWeight(arithmetic.quantize(weight, scale, axis, scheme.grid), scale, axis)


_SHARES = np.linspace(1.0, 0.4, 31)
"""Of the largest magnitude, tried from the largest on. Gaussian weights are best clipped at about
0.9, heavy tails further in."""


def weight_scale(weight: Array, axis: int | None, method: WeightScale, grid: Grid = INT8) -> Array:
    """Return the scale of a weight, in its dtype: [channels] along `axis`, 0-D for None; NaN
    where it holds NaN or infinity.
    """
    largest = arithmetic.largest_value_scale(weight, axis, grid)
    if not np.isfinite(largest).all():
        return largest
    match method:
        case WeightScale.MAX:
            return largest
        case WeightScale.MSE:
            return _least_error(weight, axis, largest, grid)
        case _:
            assert_never(method)


def _least_error(weight: Array, axis: int | None, largest: Array, grid: Grid) -> Array:
    """Return, channel by channel, the scale with the least squared error of the weight."""
    best, least = largest, _error(weight, axis, largest, grid)
    for share in _SHARES[1:]:
        scale = (largest.astype(np.float64) * share).astype(weight.dtype)
        # a scale that has become subnormal is no scale
        usable = scale >= arithmetic.SMALLEST_SCALE[np.dtype(weight.dtype)]
        scale = np.where(usable, scale, largest)
        error = _error(weight, axis, scale, grid)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return np.asarray(best, weight.dtype)


def _error(weight: Array, axis: int | None, scale: Array, grid: Grid) -> Array:
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    off = arithmetic.fake_quantize(weight, scale, axis, grid).astype(np.float32) - weight
    error: Array = np.sum(np.square(off, dtype=np.float32), axis=others, dtype=np.float64)
    return error

"""Smoothed quantization without a smoothed model: what each strength does to nodes, one graph.

What makes a tensor need not absorb the factors for its readers' errors to be known: the tensor is
multiplied by their reciprocals before it is quantized, and the weight that reads it is quantized
after it was multiplied. The numbers are those of the smoothed model; the float graph stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.rescaling import rescale
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize import arithmetic
from qgraph._quantize.emit import fake_quantization, quantization_parameters, quantized_weight
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.smooth.points import SmoothPoint

_Key = tuple[str, int | None]


def quantization_in_place(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    factors: Mapping[SmoothPoint, Array],
) -> FakeQuantization:
    """Return what `nodes` compute with; `factors`: what their tensors are divided by, float32
    [channels], and `ranges` those of the tensors after it. A weight is made when it is asked for.
    """
    tensors = GraphIndex(model).initializers
    plain = fake_quantization(quantization_parameters(model, nodes, ranges, scheme))
    known = {node.name: node for node in nodes}
    products: dict[str, Array] = {}
    weights: dict[_Key, Callable[[], Array]] = {
        key: partial(plain.weights.__getitem__, key) for key in plain.weights
    }
    for point, vector in factors.items():
        reciprocal = (1 / vector.astype(np.float64)).astype(plain.scales[point.tensor].dtype)
        products[point.tensor] = reciprocal.reshape(-1, *[1] * point.spatial)
        for operand in point.readers:
            weight = known[operand.node].weight if operand.node in known else None
            if weight is not None:
                weights[weight.tensor, weight.axis] = partial(
                    _made, tensors[weight.tensor], operand.axis, vector, weight.axis, scheme
                )
    return replace(plain, weights=OnDemand(weights), products=products)


def _made(
    tensor: onnx.TensorProto, along: int, factors: Array, axis: int | None, scheme: Scheme
) -> Array:
    scaled = tensor_from(tensor.name, rescale(array_of(tensor), along, factors, divides=False))
    made = quantized_weight(scaled, axis, scheme)
    return arithmetic.dequantize(made.values, made.scale, made.axis)

"""Smoothed quantization without a smoothed model: what each strength does to nodes, one graph.

What makes a tensor need not absorb the factors for its readers' errors to be known: the tensor is
multiplied by their reciprocals before it is quantized, and the weight that reads it is quantized
after it was multiplied. The numbers are those of the smoothed model; the float graph stays. A
rotation is made where the tensor is read, too: a weight that absorbs one is quantized as it comes
out, and turned back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization, WeightKey
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.qdq import QuantizedWeight
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.rescaling import rescale, rotate
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize import arithmetic
from qgraph._quantize.emit import fake_quantization, parameters_of, quantized_weight
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.smooth.layers import Operand
from qgraph._quantize.smooth.points import SmoothPoint


def quantization_in_place(
    index: GraphIndex,
    nodes: Sequence[QuantizableNode],
    ranges: Mapping[str, Range],
    scheme: Scheme,
    factors: Mapping[SmoothPoint, Array],
    blocks: Mapping[SmoothPoint, int] = MappingProxyType({}),
) -> FakeQuantization:
    """Return what `nodes` of the model behind `index` compute with; `factors`: what their tensors
    are divided by, float32 [channels], `blocks`: of how many channels they are then rotated, and
    `ranges` those of the tensors after both. A weight is made when it is asked for.
    """
    tensors = index.initializers
    plain = fake_quantization(parameters_of(index, nodes, ranges, scheme))
    known = {node.name: node for node in nodes}
    products: dict[str, Array] = {}
    weights: dict[WeightKey, Callable[[], Array]] = {
        key: partial(plain.weights.__getitem__, key) for key in plain.weights
    }
    changes = defaultdict[WeightKey, list[_Change]](list)
    for point, vector in factors.items():
        reciprocal = (1 / vector.astype(np.float64)).astype(plain.scales[point.tensor].dtype)
        products[point.tensor] = reciprocal.reshape(-1, *[1] * point.spatial)
        for key, operand in _weights_of(known, point.readers):
            changes[key].append(_Change(operand.axis, factors=vector))
    for point, block in blocks.items():
        for key, operand in _weights_of(known, point.readers):
            changes[key].append(_Change(operand.axis, block=block))
        for key, operand in _weights_of(known, point.absorbers if point.turns else ()):
            divided = factors.get(point)
            if divided is not None and operand.heads is not None:
                divided = operand.heads.of_values(divided)
            changes[key].append(_Change(operand.axis, divided, block, absorbs=True))
    made = {
        key: partial(_made, tensors[key[0]], own, key[1], scheme) for key, own in changes.items()
    }
    weights |= {key: partial(_float, make, changes[key]) for key, make in made.items()}
    integers = {key: partial(plain.integers.__getitem__, key) for key in plain.integers} | made
    absorbed = weights_absorbing(nodes, blocks)
    integers = {key: make for key, make in integers.items() if key not in absorbed}
    rotations = {point.tensor: (block, True) for point, block in blocks.items()}
    return replace(
        plain, weights=OnDemand(weights), products=products, rotations=rotations,
        integers=OnDemand(integers),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What is done to a weight along an axis before it is quantized: multiplied by factors, then
    rotated; where it `absorbs`, divided, and all of it is undone afterwards.
    """

    axis: int
    factors: Array | None = None
    block: int = 1
    absorbs: bool = False

    def before(self, values: Array) -> Array:
        if self.factors is not None:
            values = rescale(values, self.axis, self.factors, divides=self.absorbs)
        return rotate(values, self.axis, self.block) if self.block > 1 else values

    def after(self, values: Array) -> Array:
        values = rotate(values, self.axis, self.block)
        if self.factors is not None:
            values = rescale(values, self.axis, self.factors, divides=False)
        return values


def weights_changed(
    nodes: Sequence[QuantizableNode],
    smoothed: Iterable[SmoothPoint],
    rotated: Iterable[SmoothPoint],
) -> set[WeightKey]:
    """Return the weights that are made anew where points are smoothed or rotated."""
    turned = list(rotated)
    operands = [operand for point in (*smoothed, *turned) for operand in point.readers]
    known = {node.name: node for node in nodes}
    return {key for key, _ in _weights_of(known, operands)} | weights_absorbing(nodes, turned)


def weights_absorbing(
    nodes: Sequence[QuantizableNode], rotated: Iterable[SmoothPoint]
) -> set[WeightKey]:
    """Return the weights that absorb a rotation where points are rotated: turned back, they are no
    whole numbers times a scale.
    """
    operands = [operand for point in rotated if point.turns for operand in point.absorbers]
    return {key for key, _ in _weights_of({node.name: node for node in nodes}, operands)}


def _weights_of(
    known: Mapping[str, QuantizableNode], operands: Sequence[Operand]
) -> Iterator[tuple[WeightKey, Operand]]:
    for operand in operands:
        weight = known[operand.node].weight if operand.node in known else None
        if weight is not None and weight.index == operand.index:
            yield (weight.tensor, weight.axis), operand


def _made(
    tensor: onnx.TensorProto, changes: Sequence[_Change], axis: int | None, scheme: Scheme
) -> QuantizedWeight:
    values = array_of(tensor)
    for change in changes:
        values = change.before(values)
    return quantized_weight(tensor_from(tensor.name, values), axis, scheme)


def _float(make: Callable[[], QuantizedWeight], changes: Sequence[_Change]) -> Array:
    """Return what the untouched activation meets: what weights absorb is undone."""
    made = make()
    values = arithmetic.dequantize(made.values, made.scale, made.axis)
    for change in changes:
        if change.absorbs:
            values = change.after(values)
    return values

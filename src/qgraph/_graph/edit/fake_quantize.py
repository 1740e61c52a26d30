"""Fake quantization: values of quantized nodes' inputs, as numbers of the float graph's type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from qgraph._graph.edit.qdq import QuantizedWeight
from qgraph._graph.halves import cast
from qgraph._graph.tensors import Array, OnDemand

WeightKey = tuple[str, int | None]
"""The name of a weight, and the axis that its scales go along."""


@dataclass(frozen=True, slots=True, eq=False)
class FakeQuantization:
    """`weights`: (tensor name, axis) → fake-quantized copy, shape and dtype of the float tensor,
    made when asked for. `scales`: activation name → scale, 0-D, in the dtype of the tensor.
    `dtype`: what activations are quantized to. `weights_only`: whether they stay as they are.
    `products`: activation name → what it is multiplied by first, a vector that its shape takes.
    `rotations`: activation name → channels of the blocks that a Hadamard matrix then multiplies,
    and whether it does: that, too, can be an input of a session.
    `others`: node → what it is quantized to instead. `integers`: those of `weights` that are whole
    numbers times a scale, as these.
    """

    weights: Mapping[WeightKey, Array]
    scales: Mapping[str, Array]
    dtype: np.dtype[np.generic] = field(default_factory=lambda: np.dtype(np.int8))
    weights_only: bool = False
    products: Mapping[str, Array] = field(default_factory=dict)
    rotations: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    others: Mapping[str, FakeQuantization] = field(default_factory=dict)
    integers: Mapping[WeightKey, QuantizedWeight] = field(default_factory=dict)

    def in_single(self) -> FakeQuantization:
        """Return the same values as float32, for a graph that is computed so."""

        def single(key: WeightKey) -> Array:
            return cast(self.weights[key], np.dtype(np.float32))

        weights = OnDemand({key: partial(single, key) for key in self.weights})
        scales, products = (
            {name: array.astype(np.float32) for name, array in held.items()}
            for held in (self.scales, self.products)
        )
        made = {id(item): item for item in self.others.values()}
        singles = {key: item.in_single() for key, item in made.items()}
        others = {name: singles[id(item)] for name, item in self.others.items()}
        # a half rounds whole numbers times a scale
        return replace(
            self, weights=weights, scales=scales, products=products, others=others, integers={}
        )

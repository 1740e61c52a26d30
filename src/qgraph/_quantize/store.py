"""Quantized weights that several models made from one read: each is made once.

Profiles are nested, mostly, so that four of them would quantize most weights again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx

from qgraph._graph.edit.qdq import Hold, QuantizedWeight
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize.scheme import Scheme

_Key = tuple[str, int | None]


class WeightStore:
    """Weights of one float model. `hold` keeps their values: this keeps none, but
    reads them back where they lie.
    """

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self._made: dict[tuple[str, _Key], tuple[onnx.TensorProto, Array]] = {}

    def once(
        self, weights: Mapping[_Key, QuantizedWeight], scheme: Scheme
    ) -> Mapping[_Key, QuantizedWeight]:
        """Return the same weights; those asked for before under the scheme are not made again."""
        return OnDemand({key: partial(self._get, key, weights, str(scheme)) for key in weights})

    def _get(
        self, key: _Key, weights: Mapping[_Key, QuantizedWeight], scheme: str
    ) -> QuantizedWeight:
        if (scheme, key) not in self._made:
            weight = weights[key]
            self._made[scheme, key] = self.hold(key[0], weight.values), weight.scale
        tensor, scale = self._made[scheme, key]
        return QuantizedWeight(array_of(tensor), scale, key[1])

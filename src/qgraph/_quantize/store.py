"""Quantized weights that several models made from one read: each is made once.

Profiles are nested, mostly, so that four of them would quantize most weights again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx

from qgraph._graph.edit.qdq import Hold, QuantizedWeight
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.weights import array_of, content_of
from qgraph._graph.tensors import Array, OnDemand
from qgraph._quantize.scheme import Scheme

_Key = tuple[str, int | None]
_Content = tuple[str, int | None, bytes]
"""Scheme, axis, and what the values are."""


class WeightStore:
    """Weights of one float model and its forms. `hold` keeps their values: this keeps none, but
    reads them back where they lie.
    """

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self._made: dict[_Content, tuple[onnx.TensorProto, Array]] = {}

    def once(
        self, weights: Mapping[_Key, QuantizedWeight], scheme: Scheme, model: onnx.ModelProto
    ) -> Mapping[_Key, QuantizedWeight]:
        """Return the same weights, of a form of the model; those of the same values that were asked
        for before under the scheme are not made again.
        """
        held = GraphIndex(model).initializers
        return OnDemand(
            {key: partial(self._get, key, weights, str(scheme), held[key[0]]) for key in weights}
        )

    def _get(
        self,
        key: _Key,
        weights: Mapping[_Key, QuantizedWeight],
        scheme: str,
        tensor: onnx.TensorProto,
    ) -> QuantizedWeight:
        content = scheme, key[1], content_of(tensor)
        if content not in self._made:
            weight = weights[key]
            self._made[content] = self.hold(key[0], weight.values), weight.scale
        made, scale = self._made[content]
        return QuantizedWeight(array_of(made), scale, key[1])

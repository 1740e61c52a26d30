"""One session that stands for every profile of a model: exact, and no model is emitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.run.integers import multiplies_integers
from qgraph._graph.run.session import Provider, Session, open_session


class SwitchedSession:
    """Hands out sessions that behave like the Q/DQ model of a set of nodes."""

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        provider: Provider = Provider.CPU,
    ) -> None:
        switched = insert_switches(
            prepared.model, nodes, quantization, integers=multiplies_integers(provider)
        )
        self._inputs = switched.inputs
        self._session = open_session(switched.model, provider, weights=switched.weights)

    def quantizing(self, nodes: frozenset[str]) -> Session:
        """Return a session with exactly `nodes` quantized."""
        return self._session.fixing(
            {name: np.asarray(node in nodes) for node, name in self._inputs.items()}
        )

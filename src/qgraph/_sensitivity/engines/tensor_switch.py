"""The `switch` engine for the scheme `inc-cpu`: the same questions, INC's numbers and placement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.tensor_switches import TensorQuantization, insert_tensor_switches
from qgraph._graph.run.session import Provider, Semantics, open_session
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.inc_scheme import FOLLOWERS
from qgraph._sensitivity.engines.questions import Question, Scored
from qgraph._sensitivity.engines.switch import SwitchEngine


class TensorSwitchEngine(SwitchEngine):
    """Holds one session; a switch is on while any of the nodes it serves is quantized."""

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: TensorQuantization,
        scored: Scored,
        provider: Provider = Provider.CPU,
    ) -> None:
        switched = insert_tensor_switches(prepared.model, nodes, quantization, FOLLOWERS)
        self._scored = scored
        self._switches = switched.switches
        # INC scores with all optimizations on, integer kernels among them
        self._session = open_session(switched.model, provider, Semantics.FAST)

    def _run(self, feed: Feed, quantized: Question) -> dict[str, Array]:
        switches = {
            name: np.asarray(not quantized.isdisjoint(nodes))
            for name, nodes in self._switches.items()
        }
        return self._session.run(feed | switches, self._scored.outputs)

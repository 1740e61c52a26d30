"""The `switch` engine: one session, a switch per node, one run per question.

The reference for every faster engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.run.distance import Sums
from qgraph._graph.run.session import Provider, open_session
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.engines.questions import Question, References, Scored, Step


class SwitchEngine:
    """Holds one session; every answer costs one forward."""

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        scored: Scored,
        provider: Provider = Provider.CPU,
    ) -> None:
        switched = insert_switches(prepared.model, nodes, quantization)
        self._scored = scored
        self._inputs = switched.inputs
        self._session = open_session(switched.model, provider, weights=switched.weights)

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return 1: nothing is saved by more."""
        return 1

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        """Return, for each feed and question, the distance sums over the scored outputs."""
        results: list[list[Sums]] = []
        for number, feed in enumerate(feeds):
            references = References(self._run(feed, frozenset()), self._scored)
            results.append([])
            for index, question in enumerate(questions):
                step((number + index / len(questions)) / len(feeds))
                results[-1].append(references.compare(self._run(feed, question)))
        return results

    def _run(self, feed: Feed, quantized: Question) -> dict[str, Array]:
        switches = {name: np.asarray(node in quantized) for node, name in self._inputs.items()}
        return self._session.run(feed | switches, self._scored.outputs)

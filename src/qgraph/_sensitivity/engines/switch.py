"""The engine `switch`: one session, a switch per node, one run per question.

The reference for every faster engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import Origin, declare_scales, scales_by
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.edit.tensor_switches import TensorQuantization, insert_tensor_switches
from qgraph._graph.run.integers import multiplies_integers
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import Provider, Semantics, Session, open_session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._quantize.inc_scheme import FOLLOWERS
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.engines.question_engine import QuestionEngine
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Question, References, Scored, Step
from qgraph._sensitivity.scoring.work import Work


class Switch(QuestionEngine):
    """Any scheme; every answer costs a forward."""

    name = "switch"
    schemes = (SchemeName.INT8, SchemeName.FP8, SchemeName.INC_CPU)

    def open(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> SwitchAnswerer:
        """Return a session with a switch for each node, or tensor under INC's scheme."""
        provider, how = runtime.provider, model.quantization
        if isinstance(how, TensorQuantization):
            return tensor_switches(model.prepared, model.nodes, how, model.scored, provider)
        return node_switches(model.prepared, model.nodes, how, model.scored, provider)


def node_switches(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    scored: Scored,
    provider: Provider = Provider.CPU,
) -> SwitchAnswerer:
    """Return what answers with a switch for each node."""
    switched = insert_switches(
        prepared.model, nodes, quantization, integers=multiplies_integers(provider)
    )
    declare_scales(switched.model.graph, switched.scales)
    session = open_session(switched.model, provider, weights=switched.weights)
    switches = {name: frozenset({node}) for node, name in switched.inputs.items()}
    return SwitchAnswerer(session, scored, switches, switched.scales)


def tensor_switches(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: TensorQuantization,
    scored: Scored,
    provider: Provider = Provider.CPU,
) -> SwitchAnswerer:
    """Return what answers with INC's numbers and placement: a switch is on while any of the nodes
    it serves is quantized.
    """
    switched = insert_tensor_switches(prepared.model, nodes, quantization, FOLLOWERS)
    # INC scores with all optimizations on, integer kernels among them
    session = open_session(switched.model, provider, Semantics.FAST)
    return SwitchAnswerer(session, scored, switched.switches)


class SwitchAnswerer:
    """Holds one session; `switches`: input of it → the nodes that turn it on; `scales`: inputs of
    it → whose, which are what it was opened with where none are given.
    """

    def __init__(
        self,
        session: Session,
        scored: Scored,
        switches: Mapping[str, Set[str]],
        scales: Mapping[str, Origin] = MappingProxyType({}),
    ) -> None:
        self._session = session
        self._scored = scored
        self._switches = switches
        self._scales = scales

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

    def sums_by(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        models: Sequence[ComputedModel],
        step: Step,
    ) -> list[list[Sums]]:
        """Return the same, each sample quantized by scales of its own."""
        if self._scales:
            pairs = zip(feeds, models, strict=True)
            feeds = [feed | scales_by(self._scales, model.fake) for feed, model in pairs]
        return self.sums(questions, feeds, step)

    def _run(self, feed: Feed, quantized: Question) -> dict[str, Array]:
        switches = {
            name: np.asarray(not quantized.isdisjoint(nodes))
            for name, nodes in self._switches.items()
        }
        return self._session.run(feed | switches, self._scored.outputs)

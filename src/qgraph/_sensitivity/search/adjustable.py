"""One session that stands for a model quantized in any way: what sets ways apart are inputs of it.

Scales, the vectors that activations are multiplied by, whether these are then rotated, and the
weights that smoothing rescales may be fed on each run, else they are what the session was opened
with; and each node has a switch. So ranges, strengths, rotations and sets of nodes are compared, by
exact forwards, without another session being opened.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization, WeightKey
from qgraph._graph.edit.fake_quantizer import (
    declare_scales,
    integers_of,
    product_of,
    rotation_of,
    scale_of,
    weight_of,
)
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.run.cores import cores
from qgraph._graph.run.integers import multiplies_integers
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._sensitivity.scoring.questions import Question, References, Scored

_COPIES = 4
"""Of the outputs of a sample that are held at once, while others are compared with them."""


class Adjustable:
    """Holds the session, and the float outputs of samples as long as there is `memory` for more;
    `made`: what is not fed; `rescaled`: the weights that may be; `scored`: each place where
    distances are taken.
    """

    def __init__(
        self,
        model: PreparedModel,
        nodes: Sequence[QuantizableNode],
        made: FakeQuantization,
        rescaled: Collection[WeightKey],
        scored: Sequence[Scored],
        provider: Provider,
        memory: Memory | None = None,
    ) -> None:
        switched = insert_switches(model.model, nodes, made, integers=multiplies_integers(provider))
        self._switches, self._names = switched.inputs, switched.names
        self._scored = scored
        fed = [scale_of(name) for name in made.scales]
        fed += [product_of(name) for name in made.products]
        fed += [rotation_of(name) for name in made.rotations]
        fed += [label for key in rescaled for label in (weight_of(*key), *integers_of(*key))]
        fed = [self._names[label] for label in fed if label in self._names]
        declare_scales(switched.model.graph, fed)
        # threads that spin, while distances are taken, cost as much as half of the runs
        self._session = open_session(
            switched.model, provider, weights=switched.weights, threads=cores()
        )
        self._outputs = tuple(dict.fromkeys(name for each in scored for name in each.outputs))
        self._references: dict[int, list[References]] = {}
        self._memory = memory or Memory.of(None)

    def adjusted(self, made: FakeQuantization, rescaled: Collection[WeightKey]) -> Session:
        """Return the session quantizing as `made` says, whose other weights, and what else it says
        nothing of, are those it was opened with.
        """
        given = {scale_of(name): value for name, value in made.scales.items()}
        given |= {product_of(name): value for name, value in made.products.items()}
        given |= {rotation_of(n): np.asarray(turned) for n, (_, turned) in made.rotations.items()}
        for key in rescaled:
            given |= self._weight(key, made)
        named = {self._names[label]: each for label, each in given.items() if label in self._names}
        return self._session.fixing(named)

    def _weight(self, key: WeightKey, made: FakeQuantization) -> dict[str, Array]:
        """Return what is fed for a weight: whole numbers and their scale where these are read."""
        values, scale = integers_of(*key)
        if values not in self._names:
            return {weight_of(*key): made.weights[key]}
        weight = made.integers[key]
        return {values: weight.values, scale: weight.scale}

    def ask(self, number: int, feed: Feed, session: Session, question: Question) -> list[Sums]:
        """Return the distances of a sample at each place, the nodes of `question` quantized as
        `session` does.
        """
        if number not in self._references:
            outputs = self._run(session, feed, frozenset())
            if self._memory.left < _COPIES * sum(array.nbytes for array in outputs.values()):
                self._references.clear()
            self._references[number] = [References(outputs, each) for each in self._scored]
        outputs = self._run(session, feed, question)
        return [each.compare(outputs) for each in self._references[number]]

    def _run(self, session: Session, feed: Feed, quantized: Question) -> dict[str, Array]:
        switches = {name: np.asarray(node in quantized) for node, name in self._switches.items()}
        return session.run(feed | switches, self._outputs)

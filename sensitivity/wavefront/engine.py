"""The engine: answers the same questions as `switch`, at the cost of what lies downstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.segments import cut
from graph.runtime.distance import Sums
from graph.runtime.forward import stack
from graph.runtime.session import Provider
from graph.tensors import Array, Feed
from sensitivity.engine import Question, References, Scored, Step
from sensitivity.wavefront.crossing import Crossing, observe_crossing
from sensitivity.wavefront.plan import Variant, make_plan
from sensitivity.wavefront.sessions import SegmentSessions
from sensitivity.wavefront.walk import Stacking, Walk

_WIDTH = 8
"""Variants that run together at most. Wider stacks gain little once a GEMM fills the cores."""


class WavefrontEngine:
    """Holds a session per segment; a variant costs what lies downstream of its nodes."""

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        scored: Scored,
        feed: Feed,
        provider: Provider = Provider.CPU,
        width: int = _WIDTH,
    ) -> None:
        self._scored = scored
        self._inputs = prepared.inputs
        self._candidates = frozenset(node.name for node in nodes)
        self._segments = cut(prepared.model, nodes, scored.outputs)
        tensors = sorted(
            {name for item in self._segments for name in (*item.inputs, *item.outputs)}
        )
        crossing = observe_crossing(prepared.model, tensors, feed, provider)
        self._sessions = SegmentSessions(
            prepared.model, self._segments, nodes, quantization, crossing.values, provider
        )
        self.stacking = self._provable(crossing, feed, width)

    def sums(self, questions: Sequence[Question], feed: Feed, step: Step) -> list[Sums]:
        """Return, for each question, the distance sums over the scored outputs."""
        plan = make_plan(self._segments, self._candidates, questions, self._scored.outputs)
        walk = Walk(plan, self._sessions, self.stacking, self._inputs, feed, self._scored.outputs)
        results: dict[int, Sums] = {}
        references: list[References] = []

        def arrived(variant: Variant, outputs: Mapping[str, Array]) -> None:
            if not references:
                references.append(References(walk.reference(), self._scored))
                references[0].compare(walk.reference(), frozenset())
            question = questions[variant.question]
            results[variant.question] = references[0].compare(outputs, question)

        walk.go(arrived, step)
        return [results[index] for index in range(len(questions))]

    def _provable(self, crossing: Crossing, feed: Feed, width: int) -> Stacking:
        """Return how variants may be stacked: not at all unless two at once give what one gives."""
        alone = Stacking(1, {})
        if crossing.batch_axis is None or width == 1:
            return alone
        dependent = {name for item in self._segments[1:] for name in item.outputs}
        if any(crossing.batch_axis[name] is None for name in dependent):
            return alone
        pair = stack([feed, feed], self._inputs, 2)
        if pair is None or not self._agree(feed, pair[0], crossing.batch_axis):
            return alone
        return Stacking(width, crossing.batch_axis)

    def _agree(self, one: Feed, two: Feed, axes: Mapping[str, int | None]) -> bool:
        """Return whether both halves of a stacked run equal the single run, segment by segment."""
        single, double = dict(one), dict(two)
        for index in range(len(self._segments)):
            made = self._sessions.run(index, single, frozenset())
            stacked = self._sessions.run(index, double, frozenset())
            if index and not all(_halves_equal(made[n], stacked[n], axes[n]) for n in made):
                return False
            single, double = single | made, double | stacked
        return True


def _halves_equal(one: Array, two: Array, axis: int | None) -> bool:
    if axis is None or two.shape[axis] != 2 * one.shape[axis]:
        return False
    return all(np.array_equal(half, one) for half in np.split(two, 2, axis=axis))

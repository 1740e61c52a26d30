"""The engine: answers the same questions as `switch`, at the cost of what lies downstream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.segments import cut
from graph.io.weights import array_of
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
        # an output that folds to a constant is made by no node
        self._constants = {
            item.name: array_of(item)
            for item in prepared.model.graph.initializer
            if item.name in scored.outputs
        }
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
        walk = Walk(
            plan,
            self._sessions,
            self.stacking,
            self._inputs,
            feed,
            self._scored.outputs,
            self._constants,
        )
        results: dict[int, Sums] = {}
        references: list[References] = []

        def arrived(variant: Variant, outputs: Mapping[str, Array]) -> None:
            if not references:
                references.append(References(walk.reference(), self._scored))
            results[variant.question] = references[0].compare(outputs)

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
        """Return whether what is stacked stays apart, segment by segment.

        The halves differ, as variants do: one is the float model's state, the other the
        all-quantized model's. Equal halves would hide a reduction over the batch.
        """
        none: Question = frozenset()
        plain, rounded, shared = dict(one), dict(one), dict(two)
        first = self._sessions.run(0, plain, none)
        plain, rounded = plain | first, rounded | first
        shared |= self._sessions.run(0, shared, none)
        for index, segment in enumerate(self._segments[1:], start=1):
            both = {name: _paired(name, plain, rounded, shared, axes) for name in segment.inputs}
            singles = [self._sessions.run(index, state, none) for state in (plain, rounded)]
            stacked = self._sessions.run(index, both, none)
            if not all(
                _apart(stacked[name], [s[name] for s in singles], axes[name]) for name in stacked
            ):
                return False
            plain |= singles[0]
            rounded |= self._sessions.run(index, rounded, frozenset(segment.candidates))
        return True


def _paired(
    name: str,
    one: Mapping[str, Array],
    two: Mapping[str, Array],
    shared: Mapping[str, Array],
    axes: Mapping[str, int | None],
) -> Array:
    """Return a tensor of two states stacked; what no candidate influences comes from `shared`."""
    if name in shared:
        return shared[name]
    return np.concatenate([one[name], two[name]], axis=axes[name] or 0)


def _apart(stacked: Array, singles: Sequence[Array], axis: int | None) -> bool:
    """Return whether the halves of a stacked tensor are the single ones, to the bit."""
    if axis is None or stacked.shape[axis] != sum(one.shape[axis] for one in singles):
        return False
    halves = np.split(stacked, [singles[0].shape[axis]], axis=axis)
    return all(np.array_equal(half, one) for half, one in zip(halves, singles, strict=True))

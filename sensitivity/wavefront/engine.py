"""The engine: answers the same questions as `switch`, at the cost of what lies downstream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.nodes import QuantizableNode
from graph.edit.prepare import PreparedModel
from graph.edit.segments import cut
from graph.io.weights import array_of
from graph.runtime.distance import Sums
from graph.runtime.memory import Memory
from graph.runtime.session import Provider
from graph.tensors import Array, Feed
from sensitivity.engine import Question, References, Scored, Step
from sensitivity.task import digest_of_feed
from sensitivity.wavefront.checkpoint import Checkpoint
from sensitivity.wavefront.crossing import Crossing, observe_crossing
from sensitivity.wavefront.plan import Plan, Variant, make_plan
from sensitivity.wavefront.sessions import SegmentSessions
from sensitivity.wavefront.shelf import Shelf
from sensitivity.wavefront.stacking import Stacking
from sensitivity.wavefront.walk import Walk

_WIDTH = 8
"""Variants that run together at most. Wider stacks gain little once a GEMM fills the cores."""
_FOR_SESSIONS = 0.7
"""Share of the memory left that weights may take; the rest is for states."""


class WavefrontEngine:
    """Holds a session per segment, or one at a time; a variant costs what lies below its nodes.

    `folder`: where states go that memory has no room for, and checkpoints of long walks; without
    one, neither is written. `at_once`: how many samples shared a walk; `spilled`: the bytes of
    states that a walk wrote to the disk; both of the walk that did most.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        scored: Scored,
        feed: Feed,
        provider: Provider = Provider.CPU,
        width: int = _WIDTH,
        memory: Memory | None = None,
        folder: Path | None = None,
    ) -> None:
        self._memory = memory or Memory.of(None)
        self._scored = scored
        self._inputs = prepared.inputs
        self._candidates = frozenset(node.name for node in nodes)
        self._folder = folder
        # an output that folds to a constant is made by no node
        self._constants = {
            item.name: np.array(array_of(item))
            for item in prepared.model.graph.initializer
            if item.name in scored.outputs
        }
        self._segments = cut(prepared.model, nodes, scored.outputs)
        tensors = sorted(
            {name for item in self._segments for name in (*item.inputs, *item.outputs)}
        )
        self._crossing = observe_crossing(prepared.model, tensors, feed, self._memory, provider)
        self.sessions = SegmentSessions(
            prepared.model,
            self._segments,
            nodes,
            quantization,
            self._crossing.values,
            provider,
            int(_FOR_SESSIONS * self._memory.left),
        )
        self.stacking = Stacking(self._segments, self._crossing.batch_axis, width)
        self.spilled = 0
        self.at_once = 0

    def segment_of(self, node: str) -> int:
        """Return the segment that holds a candidate."""
        return next(i for i, item in enumerate(self._segments) if node in item.candidates)

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return how many samples one walk carries: several only where that saves reading weights
        again, and their states fit into memory.
        """
        if not self.sessions.streamed:
            return 1
        plan = self._plan(questions)
        return max(1, self._room_for_states() // max(1, peak_state(plan, self._crossing)))

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        """Return, for each feed and question, the distance sums over the scored outputs."""
        self.at_once = max(self.at_once, len(feeds))
        plan = self._plan(questions)
        shelf = Shelf(self._room_for_states(), self._folder)
        answers = [_Answers(self._scored) for _ in feeds]
        walks = [
            Walk(
                plan,
                self.sessions,
                self.stacking,
                shelf,
                self._inputs,
                feed,
                self._scored.outputs,
                self._constants,
                answer.take,
                number,
            )
            for number, (feed, answer) in enumerate(zip(feeds, answers, strict=True))
        ]
        for walk, answer in zip(walks, answers, strict=True):
            answer.reference = walk.reference
        label = hashlib.sha256("".join(map(digest_of_feed, feeds)).encode()).hexdigest()
        self._through(Checkpoint(self._folder, label, walks, shelf), walks, step)
        self.spilled = max(self.spilled, shelf.spilled)
        for answer in answers:
            answer.close()
        return [[answer.sums[index] for index in range(len(questions))] for answer in answers]

    def _through(self, checkpoint: Checkpoint, walks: Sequence[Walk], step: Step) -> None:
        last = len(self._segments) - 1
        for index in range(checkpoint.restore() + 1, last + 1):
            step((index - 1) / last)
            self.sessions.enter(index)
            for walk in walks:
                walk.advance(index)
            if index < last:
                checkpoint.save(index)
        for walk in walks:
            walk.finish()
        checkpoint.remove()

    def _plan(self, questions: Sequence[Question]) -> Plan:
        return make_plan(self._segments, self._candidates, questions, self._scored.outputs)

    def _room_for_states(self) -> int:
        used = self.sessions.peak if self.sessions.streamed else 0
        return max(0, self._memory.left - used)


class _Answers:
    """Collects one sample's distances as its variants arrive."""

    def __init__(self, scored: Scored) -> None:
        self._scored = scored
        self._references: References | None = None
        self.reference: Callable[[], dict[str, Array]] = dict
        self.sums: dict[int, Sums] = {}

    def close(self) -> None:
        """Let go of the walk, which holds this: tensors would wait for the garbage collector."""
        self.reference = dict
        self._references = None

    def take(self, variant: Variant, outputs: Mapping[str, Array]) -> None:
        if self._references is None:
            self._references = References(self.reference(), self._scored)
        self.sums[variant.question] = self._references.compare(outputs)


def peak_state(plan: Plan, crossing: Crossing) -> int:
    """Return the bytes of states one sample holds at most, over all cuts."""
    made = {name: index for index, item in enumerate(plan.segments) for name in item.outputs}
    under_way = 0
    most = 0
    for index in range(1, len(plan.segments)):
        under_way += len(plan.starting.get(index, ()))
        live = sum(
            crossing.size[name]
            for name, at in made.items()
            if 1 <= at <= index < plan.last_read.get(name, 0)
        )
        most = max(most, under_way * live)
    return most

"""The engine: answers the same questions as `switch`, at the cost of what lies downstream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.segments import Segment, cut
from qgraph._graph.io.weights import constants_among
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.workers import Workers
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._sensitivity.engines.wavefront.boundary import Crossing, observe_crossing
from qgraph._sensitivity.engines.wavefront.checkpoint import Checkpoint
from qgraph._sensitivity.engines.wavefront.plan import Plan, SwitchedVariant, make_plan
from qgraph._sensitivity.engines.wavefront.sessions import SegmentSessions
from qgraph._sensitivity.engines.wavefront.stacking import Stacking, changed_in
from qgraph._sensitivity.engines.wavefront.state_store import Shelf
from qgraph._sensitivity.engines.wavefront.walk import Walk
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Question, References, Scored, Step
from qgraph._sensitivity.scoring.work import digest_of_feed

_WIDTH, _ROWS = 4, 64
"""Variants that run together at most, and on the CPU the rows they have then: where a GEMM fills a
core, stacks gain nothing, leave the caches, and keep other cores waiting for the last one."""
_FOR_SESSIONS, _FOR_RUNS = 0.7, 0.1
"""Shares of the memory left that weights may take, and what goes into and out of runs; the rest is
for states."""
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
_SHAPES = 256
"""Shapes of samples that are remembered: what is forgotten is shown again."""
_SAMPLES = 8
"""Samples that share a walk at most: more save little, and a kill would cost more."""


class WavefrontAnswerer:
    """Holds a session per segment, or one at a time; a variant costs what lies below its nodes.

    `folder`: where states go that memory has no room for and, where the run is `resumable`,
    checkpoints of long walks; without one, neither is written. `at_once`: how many samples shared
    a walk; `spilled`: the bytes of states that a walk wrote to the disk; both of the walk that did
    most. `width`: how many variants run together; by default as many as gain from it. `on_device`:
    whether states stay where sessions leave them; by default on CUDA alone.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        nodes: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        scored: Scored,
        feed: Feed,
        provider: Provider = Provider.CPU,
        width: int | None = None,
        memory: Memory | None = None,
        folder: Path | None = None,
        *,
        resumable: bool = True,
        on_device: bool | None = None,
    ) -> None:
        self._memory = memory or Memory.of(None)
        self._scored = scored
        self._inputs = prepared.inputs
        self._candidates = frozenset(node.name for node in nodes)
        self._folder = folder
        self._kept_in = folder if resumable else None
        self._constants = constants_among(prepared.model, scored.outputs)
        self._segments = cut(prepared.model, nodes, scored.outputs)
        tensors = sorted(
            {name for item in self._segments for name in (*item.inputs, *item.outputs)}
        )
        changed = changed_in(self._segments)
        inside = {name for nodes in changed for node in nodes for name in node.output if name}
        self._crossing = observe_crossing(
            prepared.model,
            tensors,
            feed,
            self._memory,
            provider,
            sorted(inside.difference(tensors)),
        )
        self._workers = Workers(provider)
        left = self._memory.left
        self.sessions = SegmentSessions(
            prepared.model,
            self._segments,
            nodes,
            quantization,
            self._crossing.values,
            provider,
            self._workers,
            int(_FOR_SESSIONS * left),
            on_device=provider is not Provider.CPU if on_device is None else on_device,
        )
        self._passing = [passing_bytes(item, self._crossing) for item in self._segments]
        room = int(_FOR_RUNS * left) // self._workers.count
        widths = [
            max(1, min(width or self._worth(item, provider), room // max(1, size)))
            for item, size in zip(self._segments, self._passing, strict=True)
        ]
        axes = self._crossing.batch_axis
        self._new_stacking = partial(Stacking, self._segments, axes, widths, changed)
        self._stackings: dict[Shapes, Stacking] = {}
        self.stacking = self._stacking_for(feed)
        self.spilled = 0
        self.at_once = 0

    def _stacking_for(self, feed: Feed) -> Stacking:
        """Return what decides on samples of these shapes. What was shown with others says nothing:
        with one position, an axis of positions and samples is an axis of samples.
        """
        shapes = tuple(sorted((name, array.shape) for name, array in feed.items()))
        if shapes not in self._stackings:
            if len(self._stackings) >= _SHAPES:
                self._stackings.clear()
            self._stackings[shapes] = self._new_stacking()
        return self._stackings[shapes]

    def _worth(self, segment: Segment, provider: Provider) -> int:
        """Return how many variants of a segment are run together with gain."""
        if provider is not Provider.CPU:
            return _WIDTH
        rows = max((self._crossing.rows[name] for name in segment.outputs), default=1)
        return min(_WIDTH, _ROWS // max(1, rows))

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return how many samples one walk carries: several only where that saves reading weights
        again, and writing states that do not fit into memory does not cost as much.
        """
        if not self.sessions.streamed:
            return 1
        left = self._memory.left
        rooms = [self._room_at(index, left) for index in range(len(self._segments))]
        states = states_at(self._plan(questions), self._crossing)

        def cost(samples: int) -> float:
            """Bytes that are read and written for each of so many samples."""
            pairs = zip(states, rooms, strict=True)
            spilled = sum(max(0, samples * state - room) for state, room in pairs)
            return (self.sessions.weights + 2 * spilled) / samples

        return min(range(1, _SAMPLES + 1), key=cost)

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        """Return, for each feed and question, the distance sums over the scored outputs."""
        return self._sums(questions, feeds, [None] * len(feeds), step)

    def sums_by(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        models: Sequence[ComputedModel],
        step: Step,
    ) -> list[list[Sums]]:
        """Return the same, each sample quantized by scales of its own."""
        return self._sums(questions, feeds, [model.fake for model in models], step)

    def _sums(
        self,
        questions: Sequence[Question],
        feeds: Sequence[Feed],
        made: Sequence[FakeQuantization | None],
        step: Step,
    ) -> list[list[Sums]]:
        self.at_once = max(self.at_once, len(feeds))
        plan = self._plan(questions)
        left = self._memory.left
        shelf = Shelf(self._room_at(0, left), self._folder)
        answers = [_Answers(self._scored, spread=self._workers.count == 1) for _ in feeds]
        walks = [
            Walk(
                plan,
                self.sessions,
                self._stacking_for(feed),
                self._workers,
                shelf,
                self._inputs,
                feed,
                self._scored.outputs,
                self._constants,
                answer,
                number,
                own,
            )
            for number, (feed, answer, own) in enumerate(zip(feeds, answers, made, strict=True))
        ]
        checkpoint = Checkpoint(self._kept_in, _label(questions, feeds), walks, shelf)
        self._through(checkpoint, walks, shelf, left, step)
        self.spilled = max(self.spilled, shelf.spilled)
        return [[answer.sums[index] for index in range(len(questions))] for answer in answers]

    def _through(
        self,
        checkpoint: Checkpoint,
        walks: Sequence[Walk],
        shelf: Shelf,
        left: int,
        step: Step,
    ) -> None:
        """Take the walks through all segments; what `step` raises stops them between two."""
        last = len(self._segments) - 1
        for index in range(checkpoint.restore() + 1, last + 1):
            try:
                step((index - 1) / last)
            except BaseException:
                checkpoint.save_at_last(index - 1)
                raise
            shelf.shrink(self._room_at(index, left))
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

    def _room_at(self, index: int, left: int) -> int:
        """Return the bytes that states may take while segment `index` runs, of `left` in all."""
        wide = self._workers.count * self.stacking.width_at(index)
        return max(0, left - self.sessions.taken_at(index) - wide * self._passing[index])


def _label(questions: Sequence[Question], feeds: Sequence[Feed]) -> str:
    """Return what names these questions, in their order, about these samples."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update("\0".join(sorted(question)).encode() + b"\n")
    for feed in feeds:
        digest.update(digest_of_feed(feed).encode())
    return digest.hexdigest()


class _Answers:
    """Collects one sample's distances as its variants arrive. `spread`: whether other threads help
    to compare.
    """

    def __init__(self, scored: Scored, *, spread: bool) -> None:
        self._scored = scored
        self._spread = spread
        self._references: References | None = None
        self.sums: dict[int, Sums] = {}

    def refer(self, outputs: Mapping[str, Array]) -> None:
        """Take what variants are compared with."""
        self._references = References(outputs, self._scored, spread=self._spread)

    def take(self, variant: SwitchedVariant, outputs: Mapping[str, Array]) -> None:
        """Compare the outputs of a variant."""
        if self._references is None:
            raise AssertionError("a variant came before what it is compared with")
        self.sums[variant.question] = self._references.compare(outputs)


def passing_bytes(segment: Segment, crossing: Crossing) -> int:
    """Return the bytes that go into and out of a segment for one variant of one sample."""
    return sum(crossing.size[name] for name in {*segment.inputs, *segment.outputs})


def states_at(plan: Plan, crossing: Crossing) -> list[int]:
    """Return the bytes of states that one sample holds behind each segment."""
    made = {name: index for index, item in enumerate(plan.segments) for name in item.outputs}
    under_way = 0
    found = []
    for index in range(len(plan.segments)):
        under_way += len(plan.starting.get(index, ()))
        live = sum(
            crossing.size[name]
            for name, at in made.items()
            if 1 <= at <= index < plan.last_read.get(name, 0)
        )
        found.append(under_way * live)
    return found

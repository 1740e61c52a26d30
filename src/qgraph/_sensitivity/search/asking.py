"""What searches ask: the error at the outputs, estimated for many quantizations or measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import is_half
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibrate.views import Glance, Look, look_at
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.engines.gradient.answerer import GradientAnswerer
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.scoring.questions import Question, Scored

Nodes = Callable[[PreparedModel], Sequence[QuantizableNode]]
"""Returns the candidates of a model, which smoothing may make read other tensors."""


class Spent(Exception):  # noqa: N818 - no error: there are no forwards left
    """The forwards are used up, or the time."""


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What is asked. `memory`: what the process may hold, None for what the machine can spare;
    `elsewhere`: has other processes look at the samples; `deadline`: when to take what is best so
    far, on `time.monotonic`'s clock.
    """

    prepared: PreparedModel
    nodes: Nodes
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    run: RangesRun
    progress: Progress = silent
    memory: Memory | None = None
    elsewhere: Look | None = None
    deadline: float | None = None

    @property
    def is_late(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def require_time(self) -> None:
        """Raise Spent where the deadline has passed."""
        if self.is_late:
            raise Spent

    @property
    def provider(self) -> Provider:
        """Return where to run."""
        return Provider(self.run.provider)

    def look(self, glances: Sequence[Glance]) -> list[list[Any]]:
        """Return what samples show, for each glance the state of each view."""
        return look_at(
            self.prepared, self.feeds, glances, self.provider, memory=self.memory,
            elsewhere=self.elsewhere,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A model and its samples, about which a search asks; computed in fp32 where the processor
    does so with half precision anyway.
    """

    search: Search
    model: PreparedModel
    nodes: Sequence[QuantizableNode]
    feeds: Sequence[Feed]

    def estimates(
        self,
        quantizations: Sequence[FakeQuantization],
        questions: Sequence[Question],
        rounds: int | None = None,
    ) -> Iterator[list[Sequence[Sums]]]:
        """Yield for each sample the sums of every question under each quantization. `rounds`:
        backward passes a sample, None for as many as the outputs need.

        Raises:
            Spent: the deadline has passed.
        """
        model, feeds, scored = self.computed()
        first, *others = self.in_precision(quantizations)
        named = {str(number): each for number, each in enumerate(others)}
        memory = self.search.memory or Memory.of(None)
        with tempfile.TemporaryDirectory(prefix="qgraph-states-") as folder:
            engine = GradientAnswerer(
                model, self.nodes, first, scored, feeds, self.search.provider, memory,
                Path(folder), rounds, lambda _: named,
            )  # fmt: skip
            for chunk in _chunks(feeds, engine.samples_at_once(questions)):
                self.search.require_time()
                for feed, sums in zip(chunk, engine.sums(questions, chunk, _ignore), strict=True):
                    kept = engine.others([feed]) or {}
                    yield [sums, *(kept[name] for name in named)]

    def measures(
        self, quantization: FakeQuantization, questions: Sequence[Question]
    ) -> Iterator[Sequence[Sums]]:
        """Yield for each sample the sums of every question, measured.

        Raises:
            Spent: the deadline has passed.
        """
        model, feeds, scored = self.computed()
        (made,) = self.in_precision([quantization])
        with tempfile.TemporaryDirectory(prefix="qgraph-states-") as folder:
            engine = WavefrontAnswerer(
                model, self.nodes, made, scored, feeds[0], self.search.provider,
                memory=self.search.memory, folder=Path(folder), resumable=False,
            )  # fmt: skip
            for chunk in _chunks(feeds, engine.samples_at_once(questions)):
                self.search.require_time()
                yield from engine.sums(questions, chunk, _ignore)

    @property
    def _is_widened(self) -> bool:
        return self.search.provider is Provider.CPU and is_half(self.model.model)

    def computed(self) -> tuple[PreparedModel, Sequence[Feed], Scored]:
        """Return model and samples as they are computed, and where they are compared."""
        scored = replace(self.search.scored, logits=False)  # errors are all that searches go by
        if self._is_widened:
            return in_single(self.model), FeedsInSingle(self.feeds), scored
        return self.model, self.feeds, scored

    def in_precision(self, made: Sequence[FakeQuantization]) -> list[FakeQuantization]:
        """Return quantizations as they are computed; weights that several share stay shared."""
        if not self._is_widened:
            return list(made)
        first = made[0].in_single()
        return [
            first,
            *(
                replace(each.in_single(), weights=first.weights)
                if each.weights is made[0].weights
                else each.in_single()
                for each in made[1:]
            ),
        ]


def _chunks(feeds: Sequence[Feed], size: int) -> Iterator[Sequence[Feed]]:
    yield from (feeds[first : first + size] for first in range(0, len(feeds), size))


def _ignore(_share: float) -> None:
    """Take no notice of progress within a sample."""

"""Running a model forward and back over samples, in one session or part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.memory import Memory, give_back
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.run.streamed import Runner
from qgraph._graph.run.workers import Workers
from qgraph._graph.tensors import Array, Feed
from qgraph._sensitivity.engines.gradient.graph import PartGraph
from qgraph._sensitivity.engines.gradient.parts import Differentiated
from qgraph._sensitivity.engines.wavefront.state_store import Shelf
from qgraph._sensitivity.scoring.questions import Step

_FOR_STATES = 0.3
"""Share of the memory left that the tensors between parts may take."""


Made = Sequence[FakeQuantization]
"""What a sample is quantized by, in the order of what was differentiated; empty: by just that."""


@dataclass(frozen=True, slots=True, eq=False)
class Passed:
    """What came of a sample: the scored `outputs`, node → its products in every pass, those at its
    `own` output where they were taken elsewhere, and its trace where that was asked for.
    """

    outputs: dict[str, Array] = field(default_factory=dict)
    products: dict[str, list[Array]] = field(default_factory=dict)
    own: dict[str, list[Array]] = field(default_factory=dict)
    traces: dict[str, float] = field(default_factory=dict)


class InOneSession:
    """Holds the session: forward, errors and all passes in one run. `at_once`: how many samples are
    run side by side, at most.
    """

    def __init__(
        self, made: Differentiated, outputs: Sequence[str], provider: Provider, most: int
    ) -> None:
        self._outputs = outputs
        self._graph = made.graph(0)
        self._workers = Workers(provider, most)
        self.at_once = self._workers.count
        self._session = _opened(self._graph, provider, self._workers.threads)

    def run(
        self, feeds: Sequence[Feed], signs: Sequence[Feed], made: Sequence[Made], step: Step
    ) -> Iterator[Passed]:
        """Yield what comes of each sample."""
        step(0)
        pieces = (partial(self._passed, *each) for each in zip(feeds, signs, made, strict=True))
        with closing(self._workers.in_turn(pieces)) as passed:
            for number, item in enumerate(passed, start=1):
                yield item
                step(number / len(feeds))

    def _passed(self, feed: Feed, signs: Feed, made: Made) -> Passed:
        graph, given = self._graph, _fitting(self._session, feed, signs)
        found = self._session.run(given | graph.scaled(made) if made else given)
        outputs = {name: found[name] for name in self._outputs if name in found}
        products, at_own = _values(graph.products, found), _values(graph.own, found)
        return Passed(outputs, products, at_own, _traces(graph, found))

    def close(self) -> None:
        """Give the session's memory back; nothing runs after it."""
        del self._session, self._graph
        give_back()


class PartByPart:
    """Opens a session per part, first forward and then back, for all samples given.

    `most`: bytes of weights in a part. `spilled`: bytes of states that went to the disk;
    `forward_seconds`: spent computing `samples` forward.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        made: Differentiated,
        outputs: Sequence[str],
        memory: Memory,
        provider: Provider,
        folder: Path,
        most: int,
    ) -> None:
        self._prepared, self._made, self._outputs = prepared, made, outputs
        self._memory, self._provider, self._folder = memory, provider, folder
        self._most, self._threads = most, Workers(provider, 1).threads
        fed = {spec.name for spec in prepared.inputs}
        self._first_read: dict[str, int] = {}
        for index, part in enumerate(made.parts):
            for name in part.segment.inputs:
                if name not in fed:
                    self._first_read.setdefault(name, index)
        self.spilled = self.samples = 0
        self.forward_seconds = 0.0

    def run(
        self, feeds: Sequence[Feed], signs: Sequence[Feed], made: Sequence[Made], step: Step
    ) -> Iterator[Passed]:
        """Return what comes of each sample."""
        shelf = Shelf(int(_FOR_STATES * self._memory.left), self._folder)
        passed = [Passed() for _ in feeds]
        self._forward(feeds, shelf, passed)
        gradients: list[dict[str, list[Array]]] = [{} for _ in feeds]
        count = len(self._made.parts)
        for done, index in enumerate(reversed(range(count))):
            step(done / count)
            graph = self._made.graph(index)
            if graph.products or graph.gradients:
                session = _opened(graph, self._provider, self._threads, pack=False)
                for number, item in enumerate(passed):
                    states = self._states(index, number, feeds[number], shelf)
                    given = states | signs[number]
                    self._back(session, graph, given, made[number], gradients[number], item)
                del session
            give_back()
        self.spilled = max(self.spilled, shelf.spilled)
        yield from passed

    def _forward(self, feeds: Sequence[Feed], shelf: Shelf, passed: Sequence[Passed]) -> None:
        """Keep what the parts read, and the outputs."""
        runner = Runner(
            self._prepared.model, self._memory, self._provider, part=self._most, tuned=False
        )
        wanted = dict.fromkeys((*self._first_read, *self._outputs))
        for number, name, values in runner.visit(feeds, list(wanted), title="forward"):
            if name in self._outputs:
                passed[number].outputs[name] = values
            if name in self._first_read:
                shelf.put((number, name), {name: values})
        self.forward_seconds += runner.seconds
        self.samples += len(feeds)

    def _states(self, index: int, number: int, feed: Feed, shelf: Shelf) -> dict[str, Array]:
        """Return what a part reads; what no earlier part reads is forgotten."""
        states = dict(feed)
        for name in self._made.parts[index].segment.inputs:
            if name in self._first_read:
                get = shelf.take if self._first_read[name] == index else shelf.look
                states |= {key: np.asarray(value) for key, value in get((number, name)).items()}
        return states

    def _back(
        self,
        session: Session,
        graph: PartGraph,
        given: Feed,
        made: Made,
        gradients: dict[str, list[Array]],
        item: Passed,
    ) -> None:
        """Run a part on a sample: into `item` its products, to `gradients` those of its inputs."""
        coming = {
            taken: values
            for name, names in graph.coming.items()
            for taken, values in zip(names, gradients.pop(name), strict=True)
        }
        scales = graph.scaled(made) if made else {}
        found = session.run(_fitting(session, given, coming) | scales)
        item.products.update(_values(graph.products, found))
        item.own.update(_values(graph.own, found))
        item.traces.update(_traces(graph, found))
        for name, tensors in graph.gradients.items():
            own = [found[tensor] for tensor in tensors]
            before = gradients.get(name)
            gradients[name] = (
                own if before is None else [a + b for a, b in zip(before, own, strict=True)]
            )


def _opened(graph: PartGraph, provider: Provider, threads: int, *, pack: bool = True) -> Session:
    # threads that spin in wait for the small nodes of which there are many take half of the time
    return open_session(
        graph.model,
        provider,
        threads=threads if provider is Provider.CPU else None,
        weights=graph.weights,
        allow_cpu_nodes=True,
        share=False,
        pack=pack,
        optimize=False,
    )


def _fitting(session: Session, *feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the session takes of `feeds`."""
    return {name: feed[name] for feed in feeds for name in session.inputs if name in feed}


def _values(
    products: Mapping[str, Sequence[str]], found: Mapping[str, Array]
) -> dict[str, list[Array]]:
    return {node: [found[name] for name in names] for node, names in products.items()}


def _traces(graph: PartGraph, found: Mapping[str, Array]) -> dict[str, float]:
    return {node: float(found[name]) for node, name in graph.traces.items()}

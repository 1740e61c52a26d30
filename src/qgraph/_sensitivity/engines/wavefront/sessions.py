"""One session per segment, its candidates behind switches.

Where memory allows, all are open throughout. Otherwise a segment is opened when the walk comes to
it, while the one before is still at work, and closed behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import Origin, declare_scales, scales_by
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.segments import Segment, extract
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.run.device_tensors import Value, run_on_device
from qgraph._graph.run.integers import multiplies_integers
from qgraph._graph.run.memory import give_back
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.run.streamed import OPENING
from qgraph._graph.run.workers import Workers, results
from qgraph._sensitivity.engines.minimal_memory import weights_of

Tensors = dict[str, Value]
Opened = tuple[Session, Mapping[str, str], Mapping[str, Origin]]


class SegmentSessions:
    """The segments of a model; `run` one after `enter`ing it. Only sessions hold weights.

    `room`: bytes of memory for sessions. `on_device`: whether tensors stay there between runs.
    `streamed`: whether sessions are opened one by one.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        segments: Sequence[Segment],
        candidates: Sequence[QuantizableNode],
        quantization: FakeQuantization,
        values: Mapping[str, onnx.ValueInfoProto],
        provider: Provider,
        workers: Workers,
        room: int,
        *,
        on_device: bool,
    ) -> None:
        self._model = model
        self._segments = segments
        self._nodes = {node.name: node for node in candidates}
        self._quantization = quantization
        self._values = values
        self._provider = provider
        self._threads = workers.threads
        self._room = room
        self._on_device = on_device
        self._weights = weights_of(model, segments, self._nodes)
        self.streamed = sum(self._weights) + OPENING * max(self._weights) > room
        self._opened: dict[int, Opened] = {}
        self._coming: tuple[int, Future[Opened]] | None = None
        self._worker = ThreadPoolExecutor(1, "qgraph-prefetch") if self.streamed else None
        if self.streamed:
            self._open(0)
        else:
            begun = [workers.start(partial(self._build, index)) for index in self._with_nodes()]
            self._opened = dict(zip(self._with_nodes(), results(begun), strict=True))

    def close(self) -> None:
        """Give the memory back of sessions that are open all the time; nothing runs after it."""
        self._opened.clear()
        give_back()

    @property
    def weights(self) -> int:
        """Return the bytes of weights that a walk reads: all, with their quantized copies."""
        return sum(self._weights)

    def taken_at(self, index: int) -> int:
        """Return the bytes that sessions take at most, by estimate, while segment `index` runs, if
        they are not open all the time.
        """
        if not self.streamed:
            return 0
        own = self._weights[index] * (1 if self._prefetched(index) else OPENING)
        if not self._prefetched(index + 1):
            return own
        return max(own, self._weights[index] + OPENING * self._weights[index + 1])

    def _prefetched(self, index: int) -> bool:
        """Return whether a segment is opened while the one before it runs: if both have room."""
        if not 0 < index < len(self._weights):
            return False
        return self._weights[index - 1] + OPENING * self._weights[index] <= self._room

    def _with_nodes(self) -> list[int]:
        return [index for index, item in enumerate(self._segments) if item.nodes]

    def enter(self, index: int) -> None:
        """Make ready to run segment `index`; where sessions are streamed, close the others."""
        if not self.streamed or index == 0:
            return
        for other in [i for i in self._opened if i not in (0, index)]:
            del self._opened[other]
        give_back()
        self._open(index)
        following = index + 1
        if self._worker is not None and self._prefetched(following):
            self._coming = following, self._worker.submit(self._build, following)

    def run(
        self,
        index: int,
        tensors: Mapping[str, Value],
        quantized: frozenset[str],
        made: FakeQuantization | None = None,
    ) -> Tensors:
        """Return what segment `index` makes of `tensors` with these nodes quantized, by the scales
        of `made` where it is given.
        """
        if not self._segments[index].nodes:
            return {}
        session, switches, scales = self._opened[index]
        feed = {name: tensors[name] for name in self._segments[index].inputs}
        feed |= {name: np.asarray(node in quantized) for node, name in switches.items()}
        if made is not None:
            feed |= scales_by(scales, made)
        if self._on_device:
            return run_on_device(session, feed)
        return dict(session.run({name: np.asarray(value) for name, value in feed.items()}))

    def _open(self, index: int) -> None:
        if index in self._opened or not self._segments[index].nodes:
            return
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == index:
            self._opened[index] = coming[1].result()
            return
        if coming is not None:  # of a walk that ended early
            coming[1].cancel()
        self._opened[index] = self._build(index)

    def _build(self, index: int) -> Opened:
        segment = self._segments[index]
        part = extract(self._model, segment, self._values)
        inside = [self._nodes[name] for name in segment.candidates]
        switched = insert_switches(
            part, inside, self._quantization, integers=multiplies_integers(self._provider)
        )
        declare_scales(switched.model.graph, switched.scales)
        session = open_session(
            switched.model, self._provider, threads=self._threads, weights=switched.weights
        )
        return session, switched.inputs, switched.scales

"""Running a model whose weights need not fit into memory, part by part.

All samples go through a part before the next one is opened, so each weight is read once, and no
more than one part's weights are held.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from qgraph._graph.edit.segments import Segment, cut_by_weight, extract
from qgraph._graph.io.weights import array_of, size_of
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider, Semantics, Session, open_session
from qgraph._graph.tensors import Array, Feed

OPENING = 3
"""Bytes of memory that a byte of fp32 weights takes while a session opens: the file's pages, the
array, and the layout onnxruntime packs it into."""
_LARGEST_PART, _SMALLEST_PART = 512 << 20, 16 << 20
"""Bytes of weights. Larger parts save nothing, smaller ones cost more than they hold."""
_MANY_NODES, _PART_NODES = 25_000, 2_000
"""Nodes from which on a graph is run part by part, and of a part then. To open a session takes more
than linear time in its nodes, which below so many is less than parts take."""

Tensors = dict[str, Array]


class Runner:
    """Runs `model` over many samples, in one session if it fits `memory` and has not very many
    nodes, else part by part.

    `weights`: values of stubs, as for `open_session`. `part`: bytes of weights in a part, for whom
    the cuts must not depend on what memory is free. `room`: bytes that what crosses the cuts may
    take, of all samples that go through together; the others follow, and weights are read again.
    `tuned` false: weights are not packed and nodes not fused, which a few runs do not make up for;
    last bits may be others than of one session.

    `in_parts`: whether it is run so. `seconds`: spent computing so far; the reading of weights does
    not count. `placement`, `elsewhere`: as of a session, over all parts opened so far.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        memory: Memory | None = None,
        provider: Provider = Provider.CPU,
        semantics: Semantics = Semantics.EXACT,
        *,
        weights: Mapping[str, Array] | None = None,
        allow_cpu_nodes: bool = False,
        part: int | None = None,
        room: int | None = None,
        tuned: bool = True,
    ) -> None:
        self._model, memory = model, memory or Memory.of(None)
        self._provider = provider
        self._semantics = semantics
        self._weights = weights
        self._allow_cpu_nodes = allow_cpu_nodes
        self._room, self._tuned = room, tuned
        self._placed: set[tuple[str, ...]] = set()
        self.placement, self.elsewhere = Counter[str](), Counter[str]()
        is_large = part is not None or OPENING * weight_bytes(model) > memory.left
        is_many = len(model.graph.node) > _MANY_NODES
        self.in_parts = is_large or is_many
        self._count = _PART_NODES if is_many else 1 << 62
        self._most = part or part_bytes(memory)
        self.seconds = 0.0

    def run(
        self,
        feeds: Sequence[Feed],
        outputs: Sequence[str],
        progress: Progress = silent,
        title: str = "running",
    ) -> list[Tensors]:
        """Return the named tensors, any of the graph's, for each feed."""
        found: list[Tensors] = [{} for _ in feeds]
        for index, name, values in self.visit(feeds, outputs, progress, title):
            found[index][name] = values
        return found

    def visit(
        self,
        feeds: Sequence[Feed],
        tensors: Sequence[str],
        progress: Progress = silent,
        title: str = "running",
        start: int = 0,
    ) -> Iterator[tuple[int, str, Array]]:
        """Yield (number of the feed, tensor, its values) as they arise, part by part, of the feeds
        from number `start` on.
        """
        while start < len(feeds):
            start = yield from self._pass(feeds, start, tensors, progress, title)

    def _pass(
        self,
        feeds: Sequence[Feed],
        start: int,
        tensors: Sequence[str],
        progress: Progress,
        title: str,
    ) -> Generator[tuple[int, str, Array], None, int]:
        """Run as many feeds, from number `start` on, as there is room for; return the next one."""
        wanted = set(tensors)
        weights = {item.name: item for item in self._model.graph.initializer}
        constants = {name: array_of(weights[name]) for name in wanted & weights.keys()}
        most = self._most if self.in_parts else 1 << 62
        parts = cut_by_weight(self._model, tensors, most, self._count)
        last_read = {name: number for number, part in enumerate(parts) for name in part.inputs}
        states: list[Tensors] = []
        total, count, held = len(parts) * len(feeds), len(feeds) - start, 0
        for number, part in enumerate(parts):
            session: Session | None = None
            done = {name for name in part.inputs if last_read[name] <= number}
            for index in range(count):
                progress(title, start * len(parts) + number * count + index, total)
                made: Tensors = {}
                if number == 0:
                    states.append(dict(feeds[start + index]))
                    made |= constants | states[index]
                state = states[index]
                if part.nodes:
                    session = session or self._open(part, state)
                    found = self._timed(session, {name: state[name] for name in part.inputs})
                    state.update({n: a for n, a in found.items() if last_read.get(n, 0) > number})
                    made |= found
                    for name in done:
                        del state[name]
                yield from ((start + index, name, a) for name, a in made.items() if name in wanted)
                held += sum(array.nbytes for array in state.values())
                if number == 0 and self._room is not None and held > self._room:
                    break
            count = len(states)
        progress(title, (start + count) * len(parts), total)
        return start + count

    def _open(self, part: Segment, state: Tensors) -> Session:
        values = {name: declared(self._model, name, state[name]) for name in part.inputs}
        values |= {value.name: value for value in self._model.graph.output}
        session = open_session(
            extract(self._model, part, values),
            self._provider,
            self._semantics,
            allow_cpu_nodes=self._allow_cpu_nodes,
            weights=self._weights,
            share=False,
            pack=self._tuned,
            optimize=self._tuned,
        )
        if part.outputs not in self._placed:  # samples that go through later open it again
            self._placed.add(part.outputs)
            self.placement.update(session.placement())
            self.elsewhere.update(session.elsewhere())
        return session

    def _timed(self, session: Session, feed: Feed) -> Tensors:
        start = time.perf_counter()
        result = session.run(feed)
        self.seconds += time.perf_counter() - start
        return result


def part_bytes(memory: Memory) -> int:
    """Return the bytes of weights in a part, where nobody says otherwise."""
    return max(_SMALLEST_PART, min(_LARGEST_PART, memory.left // (2 * OPENING)))


def session_bytes(model: onnx.ModelProto) -> int:
    """Return what a session of `model` takes, roughly: weights are held as fp32, where onnxruntime
    dequantizes constants and computes half precision on the CPU so, and packed once more.
    """
    return 2 * float32_bytes(model)


def float32_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes that all weights of `model` take as fp32."""
    entries: int = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    return 4 * entries


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all weights of `model` in the types it declares."""
    return sum(map(size_of, model.graph.initializer))


def declared(model: onnx.ModelProto, name: str, seen: Array) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor: as a graph input has it, else of the rank it showed."""
    for value in model.graph.input:
        if value.name == name:
            found: onnx.ValueInfoProto = value
            return found
    dtype = helper.np_dtype_to_tensor_dtype(seen.dtype)
    dims = [f"{name}.{axis}" for axis in range(seen.ndim)]
    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, dtype, dims)
    return made

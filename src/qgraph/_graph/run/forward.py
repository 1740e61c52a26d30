"""How long the untouched model takes over the samples: the unit that engines are measured in."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from qgraph._graph.errors import InputError
from qgraph._graph.run.feeds import leading_names, sample_axis
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider, Semantics, Session, open_session
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Feed, TensorSpec, inputs_of

_BATCHES = (1, 2, 4)


def forward_seconds(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    provider: Provider,
    memory: Memory | None = None,
    deadline: float | None = None,
) -> float:
    """Return the wall seconds of one pass over `feeds`, the fastest of batch 1, 2 and 4; a larger
    one is tried where the last gained.

    All optimizations are on. Batches larger than 1 are tried where the samples can be stacked. A
    model that does not fit into memory is run part by part, samples one by one; what is counted is
    the computing, without the reading of weights. Where that is not done by the `deadline` (on
    `time.monotonic`'s clock), the first samples stand for all; of parts, the first one does.
    """
    runner = Runner(model, memory, provider, Semantics.FAST, allow_cpu_nodes=True)
    if runner.in_parts:
        timed = feeds if deadline is None else feeds[:1]
        runner.run(timed, [value.name for value in model.graph.output], title="timing")
        return runner.seconds * len(feeds) / len(timed)
    session = open_session(model, provider, Semantics.FAST, allow_cpu_nodes=True)
    specs = inputs_of(model)
    best = math.inf
    for size in _BATCHES:
        if (seconds := _timed(session, feeds, specs, size, deadline)) >= best:
            break
        best = seconds
        if _is_late(deadline):
            break
    return best


def _is_late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def stack(feeds: Sequence[Feed], specs: Sequence[TensorSpec], size: int) -> list[Feed] | None:
    """Return the feeds in batches of `size`, or None where shapes or the model forbid it.

    Inputs are stacked along their sample axis: where the model names a batch axis, those that have
    it. Others must be equal in all feeds, and stay as they are.
    """
    if size == 1:
        return list(feeds)
    if len(feeds) < size:
        return None
    first = feeds[0]
    stacked = [_joined(part, specs, first) for part in _parts(feeds, size)]
    whole = [feed for feed in stacked if feed is not None]
    return whole if len(whole) == len(stacked) else None


def _parts(feeds: Sequence[Feed], size: int) -> Iterator[list[Feed]]:
    return ([*feeds[start : start + size]] for start in range(0, len(feeds), size))


def _joined(feeds: Sequence[Feed], specs: Sequence[TensorSpec], like: Feed) -> Feed | None:
    """Return `feeds` as one batch, None where they or the model forbid it.

    They must have the shapes of the sample `like`, and its values where no samples are stacked.
    """
    batched, leading = _batched(specs), leading_names(specs)
    alone = [spec.name for spec in specs if spec not in batched]
    shapes = {name: array.shape for name, array in like.items()}
    dynamic = all(isinstance(spec.shape[sample_axis(spec, leading)], str) for spec in batched)
    same = all(
        {name: array.shape for name, array in feed.items()} == shapes
        and all(np.array_equal(feed[name], like[name]) for name in alone)
        for feed in feeds
    )
    if not batched or not dynamic or not same:
        return None
    return {name: feeds[0][name] for name in alone} | {
        spec.name: np.concatenate([feed[spec.name] for feed in feeds], sample_axis(spec, leading))
        for spec in batched
    }


def _batched(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs that samples are stacked along: those that name a batch, else all."""
    named = [spec for spec in specs if any("batch" in str(size) for size in spec.shape)]
    return named or [spec for spec in specs if spec.shape]


def _timed(
    session: Session,
    feeds: Sequence[Feed],
    specs: Sequence[TensorSpec],
    size: int,
    deadline: float | None,
) -> float:
    """Return the seconds of one pass in batches of `size`, infinity where there can be none.

    One batch is held at a time, and what it takes to make it does not count.
    """
    if size > 1 and len(feeds) < size:
        return math.inf
    first, seconds, done = feeds[0], 0.0, 0
    for number, part in enumerate(_parts(feeds, size)):
        batch = part[0] if size == 1 else _joined(part, specs, first)
        if batch is None:
            return math.inf
        try:
            if not number:
                session.run(batch)
            start = time.perf_counter()
            session.run(batch)
        except InputError:
            if size == 1:
                raise
            return math.inf  # the model does not take stacked samples
        seconds += time.perf_counter() - start
        done += len(part)
        if _is_late(deadline):
            break
    return seconds * len(feeds) / done

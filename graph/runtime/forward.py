"""How long the untouched model takes over the samples: the unit that engines are measured in."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import onnx

from graph.errors import InputError
from graph.runtime.feeds import sample_axis
from graph.runtime.memory import Memory
from graph.runtime.session import Provider, Semantics, Session, open_session
from graph.runtime.streamed import Runner
from graph.tensors import Feed, TensorSpec, inputs_of

_BATCHES = (1, 2, 4)


def forward_seconds(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    provider: Provider,
    memory: Memory | None = None,
) -> float:
    """Return the wall seconds of one pass over `feeds`, the fastest of batch 1, 2 and 4.

    All optimizations are on. Batches larger than 1 are tried where the samples can be stacked. A
    model that does not fit into memory is run part by part, samples one by one; what is counted is
    the computing, without the reading of weights.
    """
    memory = memory or Memory.of(None)
    runner = Runner(model, memory, provider, Semantics.FAST, allow_cpu_nodes=True)
    if runner.in_parts:
        runner.run(feeds, [value.name for value in model.graph.output], title="timing")
        return runner.seconds
    session = open_session(model, provider, Semantics.FAST, allow_cpu_nodes=True)
    specs = inputs_of(model)
    single = _timed(session, feeds)
    plans = (stack(feeds, specs, size) for size in _BATCHES[1:])
    return min(single, *(_tried(session, plan) for plan in plans if plan is not None), math.inf)


def stack(feeds: Sequence[Feed], specs: Sequence[TensorSpec], size: int) -> list[Feed] | None:
    """Return the feeds in batches of `size`, or None where shapes or the model forbid it.

    Inputs are stacked along their sample axis: where the model names a batch axis, those that have
    it. Others must be equal in all feeds, and stay as they are.
    """
    if size == 1:
        return list(feeds)
    shapes = {tuple((name, a.shape) for name, a in sorted(feed.items())) for feed in feeds}
    batched = _batched(specs)
    alone = [spec.name for spec in specs if spec not in batched]
    dynamic = all(isinstance(spec.shape[sample_axis(spec)], str) for spec in batched)
    same = all(np.array_equal(feed[name], feeds[0][name]) for feed in feeds for name in alone)
    if not batched or len(shapes) > 1 or not dynamic or not same or len(feeds) < size:
        return None
    return [
        {name: feeds[0][name] for name in alone}
        | {
            spec.name: np.concatenate(
                [feed[spec.name] for feed in feeds[start : start + size]], sample_axis(spec)
            )
            for spec in batched
        }
        for start in range(0, len(feeds), size)
    ]


def _batched(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the inputs that samples are stacked along: those that name a batch, else all."""
    named = [spec for spec in specs if any("batch" in str(size) for size in spec.shape)]
    return named or [spec for spec in specs if spec.shape]


def _tried(session: Session, feeds: Sequence[Feed]) -> float:
    """Return the seconds, infinity where the model does not take stacked samples."""
    try:
        return _timed(session, feeds)
    except InputError:
        return math.inf


def _timed(session: Session, feeds: Sequence[Feed]) -> float:
    session.run(feeds[0])
    start = time.perf_counter()
    for feed in feeds:
        session.run(feed)
    return time.perf_counter() - start

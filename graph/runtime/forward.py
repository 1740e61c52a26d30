"""How long the untouched model takes over the samples: the unit that engines are measured in."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnx

from graph.runtime.feeds import sample_axis
from graph.runtime.session import Provider, Semantics, Session, open_session
from graph.tensors import Feed, TensorSpec, inputs_of

_BATCHES = (1, 2, 4)


def forward_seconds(model: onnx.ModelProto, feeds: Sequence[Feed], provider: Provider) -> float:
    """Return the wall seconds of one pass over `feeds`, the fastest of batch 1, 2 and 4.

    All optimizations are on. Batches larger than 1 are tried where the samples can be stacked.
    """
    session = open_session(model, provider, Semantics.FAST, allow_cpu_nodes=True)
    specs = inputs_of(model)
    plans = (stack(feeds, specs, size) for size in _BATCHES)
    return min(_timed(session, plan) for plan in plans if plan is not None)


def stack(feeds: Sequence[Feed], specs: Sequence[TensorSpec], size: int) -> list[Feed] | None:
    """Return the feeds in batches of `size`, or None where shapes or the model forbid it."""
    if size == 1:
        return list(feeds)
    shapes = {tuple((name, a.shape) for name, a in sorted(feed.items())) for feed in feeds}
    dynamic = all(isinstance(spec.shape[sample_axis(spec)], str) for spec in specs if spec.shape)
    if len(shapes) > 1 or not dynamic or len(feeds) < size:
        return None
    return [
        {
            spec.name: np.concatenate(
                [feed[spec.name] for feed in feeds[start : start + size]], sample_axis(spec)
            )
            for spec in specs
        }
        for start in range(0, len(feeds), size)
    ]


def _timed(session: Session, feeds: Sequence[Feed]) -> float:
    session.run(feeds[0])
    start = time.perf_counter()
    for feed in feeds:
        session.run(feed)
    return time.perf_counter() - start

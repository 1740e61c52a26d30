"""What crosses the cuts between segments: types, shapes, and where the batch lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from qgraph._graph.errors import InputError
from qgraph._graph.run.forward import stack
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner, declared
from qgraph._graph.tensors import Array, Feed, inputs_of


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """`values`: how a segment declares each tensor. `size`: its bytes, for one sample; `rows`: how
    many rows along its last axis.
    `batch_axis`: tensor → the axis along which samples lie, None where it has none; the whole is
    None where samples cannot be stacked.
    """

    values: Mapping[str, onnx.ValueInfoProto]
    size: Mapping[str, int]
    rows: Mapping[str, int]
    batch_axis: Mapping[str, int | None] | None


def observe_crossing(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    feed: Feed,
    memory: Memory,
    provider: Provider,
) -> Crossing:
    """Return what one sample, and the same sample stacked twice, shows of `tensors`."""
    inputs = inputs_of(model)
    runner = Runner(model, memory, provider, allow_cpu_nodes=True)
    pair = stack([feed, feed], inputs, 2)
    feeds = [feed] if pair is None else [feed, pair[0]]
    try:
        seen = runner.run(feeds, tensors, title="looking")
    except InputError:  # what looked like a batch is none
        seen = runner.run([feed], tensors, title="looking")
    one = seen[0]
    values = {name: declared(model, name, one[name]) for name in tensors}
    sizes = {name: int(one[name].nbytes) for name in tensors}
    rows = {name: prod(one[name].shape[:-1]) for name in tensors}
    axes = None
    if len(seen) > 1:
        axes = {name: _batch_axis(one[name], seen[1][name]) for name in tensors}
    return Crossing(values, sizes, rows, axes)


def _batch_axis(one: Array, two: Array) -> int | None:
    """Return the axis that doubled when the sample was stacked twice."""
    if one.ndim != two.ndim:
        return None
    grown = [axis for axis in range(one.ndim) if two.shape[axis] == 2 * one.shape[axis] != 0]
    grown = [axis for axis in grown if two.shape[axis] != one.shape[axis]]
    return grown[0] if len(grown) == 1 and _repeats(one, two, grown[0]) else None


def _repeats(one: Array, two: Array, axis: int) -> bool:
    """Return whether both halves of `two` are `one`, up to the rounding of another batch."""
    return all(np.allclose(half, one, rtol=1e-3, atol=1e-5) for half in np.split(two, 2, axis=axis))

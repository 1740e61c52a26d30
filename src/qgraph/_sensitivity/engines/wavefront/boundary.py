"""What crosses the cuts between segments: types, shapes, and where the batch lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from qgraph._graph.errors import InputError
from qgraph._graph.run.forward import stack
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import with_shapes
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner, declared
from qgraph._graph.tensors import Array, Feed, inputs_of


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """`values`: how a segment declares each tensor. `size`: its bytes, for one sample; `rows`: how
    many rows along its last axis.
    `batch_axis`: tensor, that does cross or not → the axis along which samples lie, None where it
    has none; the whole is None where samples cannot be stacked.
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
    inside: Sequence[str] = (),
) -> Crossing:
    """Return what one sample, and the same sample stacked twice, shows of `tensors`; of those
    `inside` segments the shape alone.
    """
    pair = stack([feed, feed], inputs_of(model), 2)
    seen, shapes = [], dict[str, str]()
    if pair is not None:
        shown, shapes = with_shapes(model, inside)
        runner = Runner(shown, memory, provider, allow_cpu_nodes=True)
        with suppress(InputError):  # what looked like a batch is none
            asked = [*tensors, *shapes.values()]
            seen = runner.run([feed, pair[0]], asked, title="looking")
    if not seen:
        runner = Runner(model, memory, provider, allow_cpu_nodes=True)
        seen = runner.run([feed], tensors, title="looking")
    one = seen[0]
    values = {name: declared(model, name, one[name]) for name in tensors}
    sizes = {name: int(one[name].nbytes) for name in tensors}
    rows = {name: prod(one[name].shape[:-1]) for name in tensors}
    axes = None
    if len(seen) > 1:
        axes = {name: _batch_axis(one[name], seen[1][name]) for name in tensors}
        axes |= {name: _grown(one[shape], seen[1][shape]) for name, shape in shapes.items()}
    return Crossing(values, sizes, rows, axes)


def _batch_axis(one: Array, two: Array) -> int | None:
    """Return the axis that doubled when the sample was stacked twice."""
    axis = _grown(one.shape, two.shape)
    return axis if axis is not None and _repeats(one, two, axis) else None


def _grown(one: Sequence[int] | Array, two: Sequence[int] | Array) -> int | None:
    """Return the axis that is twice as long in the second shape, the others being the same."""
    if len(one) != len(two):
        return None
    grown = [axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return grown[0] if len(grown) == 1 and two[grown[0]] == 2 * one[grown[0]] else None


def _repeats(one: Array, two: Array, axis: int) -> bool:
    """Return whether both halves of `two` are `one`, up to the rounding of another batch."""
    return all(np.allclose(half, one, rtol=1e-3, atol=1e-5) for half in np.split(two, 2, axis=axis))

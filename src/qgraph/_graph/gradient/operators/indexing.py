"""Operators that pick values by index: their gradient puts values where they were picked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape

_ADDS = 16
"""The opset from which ScatterElements and ScatterND add up."""


def gather(call: Call, tape: Tape) -> dict[int, str]:
    """Gather: g added where it was taken; a run of indices is padded with zeros."""
    call.only(0)
    x, indices = call.inputs[:2]
    (axis,) = tape.axes(x, [call.attribute("axis", 0)])
    known = tape.known.value(indices)
    size = tape.dim(x, axis)
    if known is not None and size is not None and known.size:
        places = np.where(known < 0, known + size, known).reshape(-1)
        if np.array_equal(places, np.arange(places[0], places[0] + places.size)):
            run = _flat(call, tape, axis, known.ndim)
            first = int(places[0])
            after = size - first - places.size
            return {0: _between(run, axis, tape.rank(x), first, after, tape)}
    return {0: _by_one_hot(call, tape, axis)}


def _flat(call: Call, tape: Tape, axis: int, axes: int) -> str:
    """Return g with the axes of the indices as one."""
    if axes == 0:
        return tape.unsqueeze(call.gradient, [axis])
    if axes == 1:
        return call.gradient
    shape = tape.shape_of(call.inputs[0])
    rank = tape.rank(call.inputs[0])
    parts = [
        *([tape.op("Slice", shape, tape.ints(0), tape.ints(axis))] if axis else []),
        tape.ints(-1),
        *([tape.op("Slice", shape, tape.ints(axis + 1), tape.ints(rank))] if axis < rank else []),
    ]
    return tape.op("Reshape", call.gradient, tape.op("Concat", *parts, axis=0))


def _between(gradient: str, axis: int, rank: int, before: int, after: int, tape: Tape) -> str:
    pads = [0] * (2 * rank)
    pads[axis], pads[axis + rank] = before, after
    return tape.op("Pad", gradient, tape.ints(*pads)) if before or after else gradient


def _by_one_hot(call: Call, tape: Tape, axis: int) -> str:
    """Return H·g with H [size, indices] of zeros and ones: indices may repeat, at any opset."""
    x, indices = call.inputs[:2]
    rank = tape.rank(x)
    depth = tape.size_along(x, [axis])
    values = tape.constant([0, 1], tape.known.dtype(x))
    # onnxruntime has no OneHot for 32-bit indices
    wide = tape.op("Cast", indices, to=int(TensorProto.INT64))
    flat = tape.op("Reshape", wide, tape.ints(-1))
    picks = tape.op("OneHot", flat, depth, values, axis=0)
    index_axes = tape.known.shape(indices)
    if index_axes is None:
        raise NoRuleError(f"the number of axes of its indices {indices!r} is not known")
    run = _flat(call, tape, axis, len(index_axes))
    if rank == 1:
        return tape.op("MatMul", picks, run)
    if axis == rank - 2:
        return tape.op("MatMul", picks, run)
    order = [at for at in range(rank) if at != axis]
    order.insert(rank - 2, axis)
    mapped = tape.op("MatMul", picks, tape.op("Transpose", run, perm=order))
    return tape.op("Transpose", mapped, perm=np.argsort(order).tolist())


@dataclass(frozen=True, slots=True)
class _Cut:
    """What a Slice does to one axis; `start` and `end` are tensors (int64 [1])."""

    axis: int
    start: str
    end: str
    step: int


def cut(call: Call, tape: Tape) -> dict[int, str]:
    """Slice: g with zeros put in and around it."""
    call.only(0)
    x = call.inputs[0]
    gradient = call.gradient
    rank = tape.rank(x)
    cuts = _cuts(call, tape)
    for item in cuts:
        gradient = _spread(gradient, item, rank, x, tape)
    return {0: gradient}


def _cuts(call: Call, tape: Tape) -> list[_Cut]:
    starts = tape.known.shape(call.inputs[1])
    if not starts or not isinstance(starts[0], int):
        raise NoRuleError("how many axes it cuts is worked out at run time")
    count = starts[0]
    axes = call.constant(3, tape).tolist() if call.optional(3) else range(count)
    steps = call.constant(4, tape).tolist() if call.optional(4) else [1] * count
    places = tape.axes(call.inputs[0], axes)
    return [
        _Cut(axis, _one(call.inputs[1], at, tape), _one(call.inputs[2], at, tape), steps[at])
        for at, axis in enumerate(places)
    ]


def _one(bounds: str, at: int, tape: Tape) -> str:
    """Return one entry of a tensor of bounds, as int64 [1]."""
    known = tape.known.value(bounds)
    if known is not None:
        return tape.ints(int(known[at]))
    return tape.op("Cast", tape.op("Gather", bounds, tape.ints(at), axis=0), to=7)


def _spread(gradient: str, item: _Cut, rank: int, x: str, tape: Tape) -> str:
    """Return g along the axis of one cut as it lay in x."""
    size = tape.dim(x, item.axis)
    start, end = tape.known.value(item.start), tape.known.value(item.end)
    if size is not None and start is not None and end is not None:
        places = range(size)[int(start[0]) : _end(int(end[0]), item.step, size) : item.step]
        if item.step == 1:
            first = places.start if len(places) else 0
            return _between(gradient, item.axis, rank, first, size - first - len(places), tape)
        return _by_places(gradient, list(places), size, item.axis, rank, x, tape)
    if item.step != 1:
        raise NoRuleError("it steps along an axis whose size, start or end is not known")
    return _padded_at_run_time(gradient, item, rank, x, tape)


def _end(end: int, step: int, size: int) -> int | None:
    """Return an end as Python means it: one before the first element is no number there."""
    return None if step < 0 and end < -size else end


def _by_places(
    gradient: str, places: list[int], size: int, axis: int, rank: int, x: str, tape: Tape
) -> str:
    """Return g put at `places` of an axis: one row of zeros stands for all that was left out."""
    if not places:
        return tape.zeros(x)
    back = np.full(size, len(places), np.int64)
    back[places] = np.arange(len(places))
    pads = [0] * (2 * rank)
    pads[axis + rank] = 1
    padded = tape.op("Pad", gradient, tape.ints(*pads))
    return tape.op("Gather", padded, tape.ints(*back.tolist()), axis=axis)


def _padded_at_run_time(gradient: str, item: _Cut, rank: int, x: str, tape: Tape) -> str:
    """Return g with as many zeros before and after it as the cut left out when the graph runs."""
    zero, one = tape.constant(0, np.int64), tape.constant(1, np.int64)
    size = tape.size_along(x, [item.axis])
    places = tape.op("Range", zero, tape.op("Squeeze", size), one)
    before = tape.op("Shape", tape.op("Slice", places, tape.ints(0), item.start))
    kept = tape.op("Shape", tape.op("Slice", places, item.start, item.end))
    after = tape.op("Sub", tape.op("Sub", size, before), kept)
    left, right = item.axis, rank - item.axis - 1
    pads = [
        *([tape.ints(*[0] * left)] if left else []),
        before,
        *([tape.ints(*[0] * (rank - 1))] if rank > 1 else []),
        after,
        *([tape.ints(*[0] * right)] if right else []),
    ]
    return tape.op("Pad", gradient, tape.op("Concat", *pads, axis=0))


def gather_elements(call: Call, tape: Tape) -> dict[int, str]:
    """GatherElements: g added where it was taken."""
    call.only(0)
    _needs_adding(tape)
    axis = call.attribute("axis", 0)
    zeros = tape.zeros(call.inputs[0])
    made = tape.op(
        "ScatterElements", zeros, call.inputs[1], call.gradient, axis=axis, reduction="add"
    )
    return {0: made}


def gather_nd(call: Call, tape: Tape) -> dict[int, str]:
    """GatherND: g added where it was taken."""
    call.only(0)
    _needs_adding(tape)
    if call.attribute("batch_dims", 0):
        raise NoRuleError("it has batch_dims")
    zeros = tape.zeros(call.inputs[0])
    return {0: tape.op("ScatterND", zeros, call.inputs[1], call.gradient, reduction="add")}


def _needs_adding(tape: Tape) -> None:
    if tape.opset < _ADDS:
        raise NoRuleError(f"it takes opset {_ADDS}, the model has {tape.opset}")


def scatter_nd(call: Call, tape: Tape) -> dict[int, str]:
    """ScatterND: g but where it was overwritten; g where it was written."""
    reduction = _reduction(call)
    found = {}
    if call.needs[0]:
        found[0] = call.gradient
        if reduction == "none":
            zeros = tape.zeros(call.inputs[2])
            found[0] = tape.op("ScatterND", call.gradient, call.inputs[1], zeros)
    if call.needs[2]:
        found[2] = tape.op("GatherND", call.gradient, call.inputs[1])
    return found


def scatter_elements(call: Call, tape: Tape) -> dict[int, str]:
    """ScatterElements: g but where it was overwritten; g where it was written."""
    reduction, axis = _reduction(call), call.attribute("axis", 0)
    found = {}
    if call.needs[0]:
        found[0] = call.gradient
        if reduction == "none":
            zeros = tape.zeros(call.inputs[2])
            given = (call.gradient, call.inputs[1], zeros)
            found[0] = tape.op("ScatterElements", *given, axis=axis)
    if call.needs[2]:
        found[2] = tape.op("GatherElements", call.gradient, call.inputs[1], axis=axis)
    return found


def _reduction(call: Call) -> str:
    reduction = str(call.attribute("reduction", "none"))
    if reduction not in ("none", "add"):
        raise NoRuleError(f"its reduction is {reduction!r}")
    return reduction


RULES: Rules = {
    "Gather": gather,
    "Slice": cut,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterND": scatter_nd,
    "ScatterElements": scatter_elements,
}

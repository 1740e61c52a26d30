"""Operators that move values: each value of the result is one of the operand's, or a filling."""

from __future__ import annotations

import numpy as np

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.operators.resizing import pad_map, through_map
from qgraph._graph.gradient.tape import NoRuleError, Tape


def reshape(call: Call, tape: Tape) -> dict[int, str]:
    """Reshape, Flatten, Squeeze, Unsqueeze: g in the shape of x."""
    return {0: tape.reshape(call.gradient, call.inputs[0], call.output)}


def transpose(call: Call, tape: Tape) -> dict[int, str]:
    """Transpose: g by the inverse permutation."""
    rank = tape.rank(call.inputs[0])
    order = call.attribute("perm") or range(rank)[::-1]
    return {0: tape.op("Transpose", call.gradient, perm=np.argsort(order).tolist())}


def expand(call: Call, tape: Tape) -> dict[int, str]:
    """Expand: g summed over the axes that were repeated."""
    return {0: tape.unbroadcast(call.gradient, call.inputs[0], call.output, [])}


def tile(call: Call, tape: Tape) -> dict[int, str]:
    """Tile: g summed over the repeats."""
    rank = tape.rank(call.inputs[0])
    repeats = tape.unsqueeze(call.inputs[1], [1])
    sizes = tape.unsqueeze(tape.shape_of(call.inputs[0]), [1])
    pairs = tape.op("Reshape", tape.op("Concat", repeats, sizes, axis=1), tape.ints(-1))
    split = tape.op("Reshape", call.gradient, pairs)
    return {0: tape.reduce("ReduceSum", split, range(0, 2 * rank, 2), keepdims=False)}


def concat(call: Call, tape: Tape) -> dict[int, str]:
    """Concat: the part of g that each operand is."""
    (axis,) = tape.axes(call.output, [call.attribute("axis")])
    found: dict[int, str] = {}
    start: str | int = 0
    last = len(call.inputs) - 1
    for index, name in enumerate(call.inputs):
        size = tape.dim(name, axis)
        end: str | int | None
        if isinstance(start, int) and size is not None:
            end = start + size
        else:
            if not any(call.needs[index:]):
                break
            first = tape.ints(start) if isinstance(start, int) else start
            end = tape.op("Add", first, tape.size_along(name, [axis]))
        if call.needs[index]:
            upto = None if index == last else end
            found[index] = tape.slice(call.gradient, axis, start, upto)
        start = end
    return found


def split(call: Call, tape: Tape) -> dict[int, str]:
    """Split: the gradients one after the other, zeros for what nothing reads."""
    axis = int(call.attribute("axis", 0))
    names = call.node.output
    parts = [
        tape.zeros(name) if gradient is None else gradient
        for name, gradient in zip(names, call.gradients, strict=True)
    ]
    return {0: tape.op("Concat", *parts, axis=axis)}


def pad(call: Call, tape: Tape) -> dict[int, str]:
    """Pad: g without the border, which adds to the values it repeats in modes other than constant.

    A negative pad, which crops, becomes a border of zeros.
    """
    call.only(0)
    mode = call.attribute("mode", "constant")
    if mode != "constant":
        return _padded_by_values(call, tape, mode)
    removed = tape.op("Neg", call.inputs[1])
    axes = [call.optional(3)] if call.optional(3) else []
    return {0: tape.op("Pad", call.gradient, removed, *([""] if axes else []), *axes)}


def _padded_by_values(call: Call, tape: Tape, mode: str) -> dict[int, str]:
    x = call.inputs[0]
    rank = tape.rank(x)
    pads = call.constant(1, tape).tolist()
    axes = call.constant(3, tape).tolist() if call.optional(3) else list(range(rank))
    gradient = call.gradient
    for place, axis in enumerate(tape.axes(x, axes)):
        before, after = pads[place], pads[place + len(axes)]
        if before or after:
            size = tape.dim(x, axis)
            if size is None:
                raise NoRuleError(f"it pads by {mode} an axis whose size is not known")
            moved = pad_map(size, before, after, mode)
            gradient = through_map(gradient, moved, axis, rank, x, tape)
    return {0: gradient}


def lower_or_upper(call: Call, tape: Tape) -> dict[int, str]:
    """Trilu: the same triangle of g."""
    call.only(0)
    bounds = call.inputs[1:]
    return {0: tape.op("Trilu", call.gradient, *bounds, upper=call.attribute("upper", 1))}


def depth_to_space(call: Call, tape: Tape) -> dict[int, str]:
    """DepthToSpace: the reverse, in the order of its mode."""
    size = int(call.attribute("blocksize"))
    if call.attribute("mode", "DCR") == "DCR":
        return {0: tape.op("SpaceToDepth", call.gradient, blocksize=size)}
    x = call.inputs[0]
    batch, channels, height, width = (tape.dim(x, axis) for axis in range(4))
    if channels is None or height is None or width is None:
        raise NoRuleError("its mode is CRD and its sizes are not known")
    blocks = [-1 if batch is None else batch, channels // size**2, height, size, width, size]
    apart = tape.op("Reshape", call.gradient, tape.ints(*blocks))
    return {0: tape.reshape(tape.op("Transpose", apart, perm=[0, 1, 3, 5, 2, 4]), x)}


def space_to_depth(call: Call, tape: Tape) -> dict[int, str]:
    """SpaceToDepth: the reverse."""
    return {0: tape.op("DepthToSpace", call.gradient, blocksize=call.attribute("blocksize"))}


RULES: Rules = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Expand": expand,
    "Tile": tile,
    "Concat": concat,
    "Split": split,
    "Pad": pad,
    "Trilu": lower_or_upper,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}

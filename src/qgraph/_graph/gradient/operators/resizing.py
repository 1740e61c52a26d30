"""Resize: linear in its input, so its gradient is the transposed map, axis by axis.

So is padding: out = M·in along an axis, whose gradient is Mᵀ·g.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape
from qgraph._graph.tensors import Array

_BY_SIZES = ("align_corners", b"align_corners")
_COPIED = (
    "antialias",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "nearest_mode",
    "mode",
)
_PROBE = 4
"""Size of the axis that shows whether a Resize repeats each element a whole number of times."""


def resize(call: Call, tape: Tape) -> dict[int, str]:
    """Resize: sums over the repeats of an element, or a product with the map of each axis."""
    call.only(0)
    x = call.inputs[0]
    if call.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NoRuleError("it crops")
    if call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NoRuleError("it keeps the aspect ratio")
    rank = tape.rank(x)
    scales = _scales(call, tape, rank)
    times = _repeats(call, tape, scales)
    if times is not None:
        return {0: _summed(call, tape, times)}
    gradient = call.gradient
    for axis in range(rank):
        before, after = tape.dim(x, axis), tape.dim(call.output, axis)
        if before is not None and before == after:
            continue
        if scales is not None and scales[axis] == 1:
            continue
        if before is None or after is None:
            raise NoRuleError("the sizes of what it reads and makes are not known")
        scale = scales[axis] if scales is not None else None
        moved = _map(call, tape, before, after, scale)
        gradient = through_map(gradient, moved, axis, rank, x, tape)
    return {0: gradient}


def _scales(call: Call, tape: Tape, rank: int) -> list[float] | None:
    """Return the scale of every axis, where they are given and constant."""
    given = call.optional(2)
    values = tape.known.value(given) if given else None
    if values is None or not values.size:
        return None
    axes = call.attribute("axes") or range(rank)
    found = [1.0] * rank
    for axis, scale in zip(tape.axes(call.inputs[0], axes), values, strict=True):
        found[axis] = float(scale)
    return found


def _repeats(call: Call, tape: Tape, scales: list[float] | None) -> list[int] | None:
    """Return how often each element is repeated along the spatial axes, if that is all it does."""
    x = call.inputs[0]
    rank = tape.rank(x)
    if call.attribute("mode", "nearest") != "nearest" or rank < 3:
        return None
    if scales is None:
        sizes = [(tape.dim(x, axis), tape.dim(call.output, axis)) for axis in range(rank)]
        if any(before is None or after is None for before, after in sizes):
            return None
        scales = [(after or 0) / (before or 1) for before, after in sizes]
    whole = [round(scale) for scale in scales]
    if whole[:2] != [1, 1] or any(a != b or a < 1 for a, b in zip(whole, scales, strict=True)):
        return None
    blocks = np.eye(_PROBE, dtype=np.float32)
    for scale in set(whole[2:]):
        made = _map(call, tape, _PROBE, _PROBE * scale, scale)
        if not np.array_equal(made, np.repeat(blocks, scale, axis=0)):
            return None
    return whole[2:]


def _summed(call: Call, tape: Tape, times: list[int]) -> str:
    """Return g summed over blocks: an average times its number of elements."""
    pooled = tape.op("AveragePool", call.gradient, kernel_shape=times, strides=times)
    return tape.scaled(pooled, math.prod(times), call.inputs[0])


def _map(call: Call, tape: Tape, before: int, after: int, scale: float | None) -> Array:
    """Return the map of one axis: float32 [after, before], what Resize makes of the unit vectors.

    `scale`: None where the node is given sizes, of which coordinates follow.
    """
    if call.attribute("coordinate_transformation_mode") in _BY_SIZES:
        scale = None  # the ends meet: what counts is how many there are
    attributes = {name: call.attribute(name) for name in _COPIED}
    given = {name: value for name, value in attributes.items() if value is not None}
    by = np.array([before, after]) if scale is None else np.array([1, scale], np.float32)
    names = ["x", "", "", "by"] if scale is None else ["x", "", "by"]
    graph = helper.make_graph(
        [helper.make_node("Resize", names, ["y"], **given)],
        "axis",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [before, before]),
            helper.make_tensor_value_info("by", helper.np_dtype_to_tensor_dtype(by.dtype), [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", tape.opset)])
    feed = {"x": np.eye(before, dtype=np.float32), "by": by}
    (made,) = ReferenceEvaluator(model).run(None, feed)
    mapped: Array = np.asarray(made).T
    return mapped


RULES: Rules = {"Resize": resize}


def through_map(gradient: str, moved: Array, axis: int, rank: int, like: str, tape: Tape) -> str:
    """Return Mᵀ·g along `axis` of a gradient of `rank` axes; `moved`: M [out, in]."""
    if axis == rank - 1:
        return tape.op("MatMul", gradient, tape.matrix(moved, like))
    if axis == rank - 2:
        return tape.op("MatMul", tape.matrix(moved.T, like), gradient)
    order = [at for at in range(rank) if at != axis] + [axis]
    last = tape.op("Transpose", gradient, perm=order)
    mapped = tape.op("MatMul", last, tape.matrix(moved, like))
    return tape.op("Transpose", mapped, perm=np.argsort(order).tolist())


def pad_map(size: int, before: int, after: int, mode: str) -> Array:
    """Return the map of a Pad that repeats values: [before + size + after, size]."""
    kept = np.arange(max(0, -before), size - max(0, -after))
    border = (max(0, before), max(0, after))
    places = np.pad(kept, border, mode=cast("Any", mode))
    return np.eye(size, dtype=np.float32)[places]

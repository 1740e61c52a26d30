"""Poolings."""

from __future__ import annotations

import math

import numpy as np

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.operators.convolutions import scattered
from qgraph._graph.gradient.operators.windows import Window, window_of
from qgraph._graph.gradient.tape import NoRuleError, Tape

_ADDS = 16
"""The opset from which ScatterElements adds up."""


def maximum(call: Call, tape: Tape) -> dict[int, str]:
    """MaxPool: g where the largest was; windows that overlap add up."""
    gradient = call.gradients[0]
    if gradient is None or call.attribute("storage_order", 0):
        raise NoRuleError("it counts its indices by columns")
    kernel = list(call.attribute("kernel_shape"))
    strides = list(call.attribute("strides") or [1] * len(kernel))
    steps = list(call.attribute("dilations") or [1] * len(kernel))
    apart = all(
        (size - 1) * step + 1 <= stride
        for size, step, stride in zip(kernel, steps, strides, strict=True)
    )
    if tape.opset < _ADDS and not apart:
        raise NoRuleError(f"its windows overlap: it takes opset {_ADDS}, not {tape.opset}")
    flat = tape.ints(-1)
    places = tape.op("Reshape", call.further_output(1, tape), flat)
    zeros = tape.op("Reshape", tape.zeros(call.inputs[0]), flat)
    reduction = None if apart else "add"
    given = (zeros, places, tape.op("Reshape", gradient, flat))
    made = tape.op("ScatterElements", *given, axis=0, reduction=reduction)
    return {0: tape.op("Reshape", made, tape.shape_of(call.inputs[0]))}


def average(call: Call, tape: Tape) -> dict[int, str]:
    """AveragePool: g over the number of elements averaged, spread over each window."""
    x = call.inputs[0]
    kernel = list(call.attribute("kernel_shape"))
    window = window_of(call, tape, kernel)
    if call.attribute("ceil_mode", 0) and not _windows_fit(window):
        raise NoRuleError("its last windows may reach beyond the pads (ceil_mode)")
    gradient = call.gradient
    if call.attribute("count_include_pad", 0) or not any(window.pads):
        gradient = tape.scaled(gradient, 1 / math.prod(kernel), x)
    else:
        gradient = tape.op("Div", gradient, _counted(window, call, tape))
    return {0: _spread(gradient, window, call, tape)}


def _windows_fit(window: Window) -> bool:
    rows = zip(
        window.sizes, window.before, window.after, window.extents, window.strides, strict=True
    )
    return all(
        stride == 1 or (size is not None and not (size + before + after - extent) % stride)
        for size, before, after, extent, stride in rows
    )


def _counted(window: Window, call: Call, tape: Tape) -> str:
    """Return how many elements that are no pads each window holds: [1, 1, spatial…]."""
    x = call.inputs[0]
    axes = [axis + 2 for axis in range(len(window.kernel))]
    shape = tape.op("Concat", tape.ints(1, 1), tape.size_along(x, axes), axis=0)
    ones = tape.op("Expand", tape.scalar(1, x), shape)
    share = tape.op(
        "AveragePool",
        ones,
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.pads,
        count_include_pad=1,
        dilations=window.dilations if any(size > 1 for size in window.dilations) else None,
    )
    return tape.op("Mul", share, tape.scalar(math.prod(window.kernel), x))


def _spread(gradient: str, window: Window, call: Call, tape: Tape) -> str:
    """Return g added over its windows: a transposed convolution with ones, channel by channel."""
    x = call.inputs[0]
    axes = [axis + 2 for axis in range(len(window.kernel))]
    ones = tape.constant(np.ones((1, 1, *window.kernel), tape.known.dtype(x)))
    single = tape.op("Concat", tape.ints(-1, 1), tape.size_along(call.output, axes), axis=0)
    planes = tape.op("Reshape", gradient, single)
    made = scattered(planes, ones, window, 1, x, tape)
    return tape.op("Reshape", made, tape.shape_of(x))


def mean_of_all(call: Call, tape: Tape) -> dict[int, str]:
    """GlobalAveragePool: g / n, repeated."""
    x = call.inputs[0]
    axes = range(2, tape.rank(x))
    size = tape.op("ReduceProd", tape.size_along(x, axes), keepdims=0)
    count = tape.op("Cast", size, to=tape.known.type(x))
    return {0: tape.held_narrow(tape.op("Div", call.gradient, count))}


def maximum_of_all(call: Call, tape: Tape) -> dict[int, str]:
    """GlobalMaxPool: g where the largest is, shared evenly among equal ones."""
    x = call.inputs[0]
    axes = list(range(2, tape.rank(x)))
    hits = tape.op("Cast", tape.op("Equal", x, call.output), to=tape.known.type(x))
    share = tape.op("Div", call.gradient, tape.reduce("ReduceSum", hits, axes))
    return {0: tape.op("Mul", hits, share)}


RULES: Rules = {
    "MaxPool": maximum,
    "AveragePool": average,
    "GlobalAveragePool": mean_of_all,
    "GlobalMaxPool": maximum_of_all,
}

"""Convolutions and poolings: what is computed in windows of kernel, strides, dilations and pads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.tape import NoRuleError, Tape


@dataclass(frozen=True, slots=True)
class Window:
    """One entry per spatial axis; `sizes` are those of the input (None: not known)."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]
    sizes: Sequence[int | None]

    @property
    def extents(self) -> list[int]:
        """Return how far a window reaches along each axis."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def pads(self) -> list[int]:
        """Return the pads as ONNX writes them."""
        return [*self.before, *self.after]


def window_of(call: Call, tape: Tape, kernel: Sequence[int]) -> Window:
    """Return the window of a Conv or pooling node.

    Raises:
        NoRuleError: its pads follow from sizes that are not known.
    """
    axes = len(kernel)
    strides = list(call.attribute("strides") or [1] * axes)
    dilations = list(call.attribute("dilations") or [1] * axes)
    sizes = [tape.dim(call.inputs[0], axis + 2) for axis in range(axes)]
    pads = list(call.attribute("pads") or [0] * (2 * axes))
    made = Window(kernel, strides, dilations, pads[:axes], pads[axes:], sizes)
    mode = call.attribute("auto_pad", "NOTSET")
    return made if mode in ("NOTSET", "VALID") else _same(made, mode)


def _same(window: Window, mode: str) -> Window:
    """Return `window` with the pads that keep the size, or the size over the stride."""
    before, after = [], []
    for size, stride, extent in zip(window.sizes, window.strides, window.extents, strict=True):
        if size is None and stride != 1:
            raise NoRuleError(f"its pads ({mode}) follow from a size that is not known")
        steps = 0 if size is None else -(-size // stride) - 1
        total = extent - 1 if size is None else max(0, steps * stride + extent - size)
        less, more = total // 2, total - total // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return Window(window.kernel, window.strides, window.dilations, before, after, window.sizes)


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
    return {0: tape.shaped(made, tape.shape_of(call.inputs[0]))}


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
    return tape.shaped(made, tape.shape_of(x))


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


def convolution(call: Call, tape: Tape) -> dict[int, str]:
    """Conv: the transposed convolution of g."""
    call.only(0)
    kernel = _kernel(call, tape)
    group = int(call.attribute("group", 1))
    window = window_of(call, tape, kernel)
    return {0: scattered(call.gradient, call.inputs[1], window, group, call.inputs[0], tape)}


def _kernel(call: Call, tape: Tape) -> list[int]:
    weight = call.inputs[1]
    sizes = [tape.dim(weight, axis) for axis in range(2, tape.rank(weight))]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise NoRuleError(f"the size of its kernel {weight!r} is not known")
    return known


def scattered(gradient: str, weight: str, window: Window, group: int, of: str, tape: Tape) -> str:
    """Return the transposed convolution of a gradient in the shape of `of`."""
    result = tape.known.shape(of)
    rest, pads = _left_over(window), window.pads
    is_cut = rest is None or result is None
    if rest is None or result is None:
        # what the last window did not reach depends on the size: as much as it can be, then cut
        rest = [stride - 1 for stride in window.strides]
        pads = [*window.before, *[0] * len(rest)]
    made = tape.op(
        "ConvTranspose",
        gradient,
        weight,
        group=group,
        strides=window.strides,
        dilations=window.dilations,
        pads=pads,
        output_padding=rest if any(rest) else None,
    )
    if not is_cut:
        return made
    axes = list(range(2, 2 + len(rest)))
    ends = tape.size_along(of, axes)
    return tape.op("Slice", made, tape.ints(*[0] * len(axes)), ends, tape.ints(*axes))


def _left_over(window: Window) -> list[int] | None:
    """Return how many elements of each axis lie behind the last window; None: not known.

    Where the stride is 1 there are none, whatever the size.
    """
    found: list[int] = []
    rows = zip(
        window.sizes, window.strides, window.extents, window.before, window.after, strict=True
    )
    for size, stride, extent, before, after in rows:
        if size is None and stride != 1:
            return None
        found.append(0 if size is None else (size + before + after - extent) % stride)
    return found


def transposed(call: Call, tape: Tape) -> dict[int, str]:
    """ConvTranspose: the convolution of g."""
    call.only(0)
    kernel = _kernel(call, tape)
    axes = len(kernel)
    if call.attribute("output_shape") or call.attribute("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        raise NoRuleError("its pads follow from the size of what it makes")
    made = tape.op(
        "Conv",
        call.gradient,
        call.inputs[1],
        group=int(call.attribute("group", 1)),
        strides=call.attribute("strides"),
        dilations=call.attribute("dilations"),
        pads=list(call.attribute("pads") or [0] * (2 * axes)),
    )
    return {0: made}


RULES: Rules = {
    "Conv": convolution,
    "ConvTranspose": transposed,
    "MaxPool": maximum,
    "AveragePool": average,
    "GlobalAveragePool": mean_of_all,
    "GlobalMaxPool": maximum_of_all,
}

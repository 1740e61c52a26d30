"""Convolutions: the gradient of the input runs the same weight the other way round."""

from __future__ import annotations

from qgraph._graph.gradient.call import Call, Rules
from qgraph._graph.gradient.operators.windows import Window, window_of
from qgraph._graph.gradient.tape import NoRuleError, Tape


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


RULES: Rules = {"Conv": convolution, "ConvTranspose": transposed}

"""The window of a convolution or a pooling: kernel, strides, dilations, pads of each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qgraph._graph.gradient.call import Call
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

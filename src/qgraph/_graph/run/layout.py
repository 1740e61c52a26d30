"""How samples lie in an array: along which axis, or one after the other along a further one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qgraph._graph.run.feeds import sample_axis
from qgraph._graph.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class SampleLayout:
    """How samples lie in an array. `count`: how many there are, None: the whole is every sample's;
    `rows`: of `axis` that make one, which has no such axis itself where it `is_stacked`.
    """

    count: int | None
    axis: int = 0
    rows: int = 1
    is_stacked: bool = False


WHOLE = SampleLayout(None)


def layout_in(
    spec: TensorSpec, shape: tuple[int, ...], leading: Collection[str]
) -> SampleLayout | None:
    """Return how samples of `spec` lie in an array of `shape`, None where it does not fit.

    `leading`: the names that inputs of the model begin with.
    """
    if not spec.ranked:
        return SampleLayout(shape[0]) if shape else WHOLE
    if len(shape) == len(spec.shape) + 1 and _fits(spec, shape[1:]):
        return SampleLayout(shape[0], is_stacked=True)
    axis = sample_axis(spec, leading)
    if not _fits(spec, shape, but=axis):
        return None
    if not shape:
        return WHOLE
    size = spec.shape[axis]
    rows = size if isinstance(size, int) and size > 0 else 1
    return SampleLayout(shape[axis] // rows, axis, rows)


def takes(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Return whether the model takes an array as it is."""
    return not spec.ranked or _fits(spec, shape)


def _fits(spec: TensorSpec, shape: tuple[int, ...], but: int | None = None) -> bool:
    """Return whether `shape` is the declared one, save along the axis `but`."""
    return len(shape) == len(spec.shape) and all(
        isinstance(want, str) or axis == but or want == have
        for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True))
    )

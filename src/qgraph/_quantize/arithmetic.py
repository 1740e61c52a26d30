"""The arithmetic of symmetric quantization, as QuantizeLinear and DequantizeLinear define it.

q = round(x / scale), held within what the type reaches, and x̂ = q · scale (ONNX operators, opset
21). The zero point is always 0. INT8 rounds to whole numbers, halves to even; FP8 to the nearest
of its own numbers, whose steps grow with their magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from onnx import TensorProto, helper

from qgraph._graph.halves import cast
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array

_SINGLE = np.dtype(np.float32)
_BLOCK = 1 << 18
"""Elements that are worked on at once, so that copies stay in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that a quantized type holds, from `qmin` to `qmax`; a scale maps to `qmax`."""

    data_type: int
    qmin: float
    qmax: float

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.data_type))

    @property
    def magnitudes(self) -> Array:
        """Return what is not negative among the numbers, float64, in their order."""
        numbers = np.arange(256, dtype=np.uint8).view(self.dtype).astype(np.float64)
        found: Array = np.unique(numbers[(numbers >= 0) & (numbers <= self.qmax)])
        return found

    def nearest(self, steps: Array) -> Array:
        """Return the number of the grid that is nearest to each of `steps`, in its own type."""
        whole = np.issubdtype(self.dtype, np.integer)
        held = np.rint(steps) if whole else steps.copy()
        return np.clip(held, self.qmin, self.qmax, out=held).astype(self.dtype)


INT8 = Grid(TensorProto.INT8, -128, 127)
FP8 = Grid(TensorProto.FLOAT8E4M3FN, -448, 448)
"""E4M3 without infinities: what TensorRT and ONNX mean by FP8 weights and activations."""

SMALLEST_SCALE = {
    np.dtype(np.float32): float(np.finfo(np.float32).tiny),
    np.dtype(np.float16): float(np.finfo(np.float16).tiny),
    # bfloat16 has float32's exponents
    np.dtype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)): float(
        np.finfo(np.float32).tiny
    ),
}
"""Below this a scale would be 0 or subnormal, which TensorRT refuses or flushes."""


def activation_scale(seen: Range, dtype: np.dtype[np.generic], grid: Grid = INT8) -> Array:
    """Return the 0-D scale, in `dtype`, that maps the larger magnitude of a range to `qmax`.

    A tensor that was 0 throughout gets scale 1.
    """
    peak = max(abs(seen.rmin), abs(seen.rmax))
    return _safe_scale(np.asarray(peak / grid.qmax), dtype, grid)


def largest_value_scale(weight: Array, axis: int | None, grid: Grid = INT8) -> Array:
    """Return the scale of a weight, in its dtype: [channels] along `axis`, 0-D for None.

    A channel of zeros gets scale 1, one that holds NaN or infinity gets NaN.
    """
    peak = _peak(weight, axis)
    scale = _safe_scale(peak / grid.qmax, weight.dtype, grid)
    return np.where(np.isfinite(peak), scale, scale.dtype.type(np.nan))


def _peak(weight: Array, axis: int | None) -> Array:
    """Return the largest magnitude of a weight, float32, of each index along `axis` where there is
    one: a few rows at a time, as a large matrix has no room for a copy.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    found: list[Array] = []
    for rows, _ in blocks(weight.shape, np.zeros(()), None):
        part = cast(weight[rows], _SINGLE)
        peak = np.maximum(np.max(part, axis=others), -np.min(part, axis=others))
        if axis == 0 or not found:
            found.append(np.asarray(peak))
        else:
            found[0] = np.maximum(found[0], peak)
    return np.concatenate(found) if len(found) > 1 else found[0]


def quantize(array: Array, scale: Array, axis: int | None = None, grid: Grid = INT8) -> Array:
    """Return the grid's values of `array`; `scale` is 0-D or runs along `axis`."""
    values: Array = np.empty(array.shape, grid.dtype)
    for rows, part in blocks(array.shape, scale, axis):
        single = cast(array[rows], _SINGLE)
        room = None if array.dtype == _SINGLE else single  # a copy
        steps = np.divide(single, _along(part, array.ndim, axis).astype(np.float32), out=room)
        values[rows] = grid.nearest(steps)
    return values


def blocks(
    shape: Sequence[int], scale: Array, axis: int | None
) -> Iterator[tuple[EllipsisType | slice, Array]]:
    """Yield rows of an array, and their part of `scale`, few enough for work on copies of them."""
    row = math.prod(shape[1:])
    if not shape or math.prod(shape) <= _BLOCK:
        yield ..., scale
        return
    for start in range(0, shape[0], max(1, _BLOCK // row)):
        rows = slice(start, start + max(1, _BLOCK // row))
        yield rows, scale[rows] if axis == 0 and scale.ndim else scale


def dequantize(values: Array, scale: Array, axis: int | None = None) -> Array:
    """Return `values` · scale, in the dtype of `scale`."""
    made = np.empty(values.shape, scale.dtype)
    # a product of two halves is exact in float32, and numpy multiplies halves many times slower
    for rows, part in blocks(values.shape, scale, axis):
        steps = values[rows].astype(np.float32)
        factors = _along(part, values.ndim, axis).astype(np.float32)
        made[rows] = cast(np.multiply(steps, factors, out=steps), scale.dtype)
    return made


def fake_quantize(array: Array, scale: Array, axis: int | None = None, grid: Grid = INT8) -> Array:
    return dequantize(quantize(array, scale, axis, grid), scale, axis)


def _safe_scale(scale: Array, dtype: np.dtype[np.generic], grid: Grid) -> Array:
    floor = SMALLEST_SCALE[np.dtype(dtype)]
    safe: Array = np.where(scale == 0, 1.0, np.maximum(scale, floor)).astype(dtype)
    # rounding up to `dtype` may put the largest values beyond its range
    with np.errstate(over="ignore"):
        overflows = ~np.isfinite(safe * safe.dtype.type(grid.qmax))
    return np.where(overflows, np.nextafter(safe, safe.dtype.type(0)), safe)


def _along(scale: Array, ndim: int, axis: int | None) -> Array:
    if axis is None or scale.ndim == 0:
        return scale
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)

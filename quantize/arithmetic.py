"""The arithmetic of symmetric INT8, as QuantizeLinear and DequantizeLinear define it.

q = clip(round_half_even(x / scale), −128, 127) and x̂ = q · scale (ONNX operators, opset 21). The
zero point is always 0.
"""

from __future__ import annotations

import numpy as np

from graph.runtime.probe import Range
from graph.tensors import Array

QMAX = 127
SMALLEST_SCALE = {
    np.dtype(np.float32): float(np.finfo(np.float32).tiny),
    np.dtype(np.float16): float(np.finfo(np.float16).tiny),
}
"""Below this a scale would be 0 or subnormal, which TensorRT refuses or flushes."""


def activation_scale(seen: Range, dtype: np.dtype[np.generic]) -> Array:
    """Return the 0-D scale, in `dtype`, that maps the larger magnitude of a range to 127.

    A tensor that was 0 throughout gets scale 1: every value maps to itself rounded.
    """
    return _safe_scale(np.asarray(max(abs(seen.rmin), abs(seen.rmax)) / QMAX), dtype)


def weight_scale(weight: Array, axis: int | None) -> Array:
    """Return the scale of a weight, in its dtype: [channels] along `axis`, 0-D for None.

    A channel of zeros gets scale 1.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak: Array = np.abs(weight.astype(np.float32)).max(axis=others if axis is not None else None)
    return _safe_scale(np.asarray(peak) / QMAX, weight.dtype)


def quantize(array: Array, scale: Array, axis: int | None = None) -> Array:
    """Return int8 values of `array`; `scale` is 0-D or runs along `axis`."""
    steps = array.astype(np.float32) / _along(scale, array.ndim, axis).astype(np.float32)
    values: Array = np.clip(np.rint(steps), -QMAX - 1, QMAX).astype(np.int8)
    return values


def dequantize(values: Array, scale: Array, axis: int | None = None) -> Array:
    """Return `values` · scale, in the dtype of `scale`."""
    product: Array = values.astype(scale.dtype) * _along(scale, values.ndim, axis)
    return product


def fake_quantize(array: Array, scale: Array, axis: int | None = None) -> Array:
    """Return `array` quantized and dequantized."""
    return dequantize(quantize(array, scale, axis), scale, axis)


def _safe_scale(scale: Array, dtype: np.dtype[np.generic]) -> Array:
    floor = SMALLEST_SCALE[np.dtype(dtype)]
    safe: Array = np.where(scale == 0, 1.0, np.maximum(scale, floor)).astype(dtype)
    # rounding up to `dtype` may put 127 steps of the largest values beyond its range
    with np.errstate(over="ignore"):
        overflows = ~np.isfinite(safe * safe.dtype.type(QMAX))
    return np.where(overflows, np.nextafter(safe, safe.dtype.type(0)), safe)


def _along(scale: Array, ndim: int, axis: int | None) -> Array:
    if axis is None or scale.ndim == 0:
        return scale
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)

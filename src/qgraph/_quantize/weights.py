"""The scale of a weight: by its largest magnitude, or with the largest clipped."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._quantize import arithmetic
from qgraph._quantize.arithmetic import INT8, Grid
from qgraph._quantize.scheme import WeightScale

_SHARES = np.linspace(1.0, 0.4, 31)
"""Of the largest magnitude, tried from the largest on. Gaussian weights are best clipped at about
0.9, heavy tails further in."""


def weight_scale(weight: Array, axis: int | None, method: WeightScale, grid: Grid = INT8) -> Array:
    """Return the scale of a weight, in its dtype: [channels] along `axis`, 0-D for None; NaN
    where it holds NaN or infinity.
    """
    largest = arithmetic.largest_value_scale(weight, axis, grid)
    if not np.isfinite(largest).all():
        return largest
    match method:
        case WeightScale.MAX:
            return largest
        case WeightScale.MSE:
            return _least_error(weight, axis, largest, grid)
        case _:
            assert_never(method)


def _least_error(weight: Array, axis: int | None, largest: Array, grid: Grid) -> Array:
    """Return, channel by channel, the scale with the least squared error of the weight."""
    best, least = largest, _error(weight, axis, largest, grid)
    for share in _SHARES[1:]:
        scale = (largest.astype(np.float64) * share).astype(weight.dtype)
        # a scale that has become subnormal is no scale
        usable = scale >= arithmetic.SMALLEST_SCALE[np.dtype(weight.dtype)]
        scale = np.where(usable, scale, largest)
        error = _error(weight, axis, scale, grid)
        better = error < least
        best, least = np.where(better, scale, best), np.where(better, error, least)
    return np.asarray(best, weight.dtype)


def _error(weight: Array, axis: int | None, scale: Array, grid: Grid) -> Array:
    others = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    off = arithmetic.fake_quantize(weight, scale, axis, grid).astype(np.float32) - weight
    error: Array = np.sum(np.square(off, dtype=np.float32), axis=others, dtype=np.float64)
    return error

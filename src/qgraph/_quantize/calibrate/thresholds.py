"""How far quantization should reach: the magnitude that maps to the largest number of INT8 or FP8,
from a histogram of magnitudes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qgraph._quantize.arithmetic import INT8, Grid
from qgraph._quantize.calibrate.histogram import BINS, Histogram

_LEVELS = 128
"""Magnitudes that symmetric INT8 tells apart, 0 to 127."""
_STRIDE = 16
_SPREAD = 256.0
"""How much narrower than the largest value a range may get."""
_CANDIDATES = 160
_RARE = 1e-7
"""Probability given to what the quantized distribution cannot show."""


def percentile_threshold(seen: Histogram, percentile: float) -> float:
    """Return the magnitude that `percentile` per cent of all values do not exceed."""
    if not seen.peak:
        return 0.0
    reached = seen.zeros + np.cumsum(seen.counts)
    index = int(np.searchsorted(reached, percentile / 100 * seen.total))
    return min(seen.peak, (min(index, BINS - 1) + 1) * seen.top / BINS)


def entropy_threshold(seen: Histogram) -> float:
    """Return the magnitude at which the quantized distribution diverges least from the real one.

    KL divergence, what lies beyond counted in the last bin (Migacz, "8-bit Inference with
    TensorRT", GTC 2017).
    """
    if not seen.peak:
        return 0.0
    last = int(seen.peak / seen.top * BINS) + 1
    counts = seen.counts.astype(np.float64)
    ends: list[int] = [*range(_LEVELS, last, _STRIDE), last]
    best: int = min(ends, key=lambda end: _divergence(counts, end))
    return min(seen.peak, best * seen.top / BINS)


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    inside = counts[:end]
    reference = inside.copy()
    reference[-1] += counts[end:].sum()
    level = np.arange(end) * _LEVELS // end
    filled = inside > 0
    sums = np.bincount(level, inside, _LEVELS)
    shares = np.bincount(level, filled, _LEVELS)
    spread = np.where(filled, (sums / np.maximum(shares, 1))[level], 0.0)
    if not spread.sum():
        return float("inf")
    p, q = reference / reference.sum(), spread / spread.sum()
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], _RARE))))


def mse_threshold(seen: Histogram, grid: Grid = INT8) -> float:
    """Return the magnitude with the least squared error of rounding and clipping together."""
    if not seen.peak:
        return 0.0
    return min(_candidates(seen.peak), key=lambda limit: _error(seen, limit, grid))


def _candidates(peak: float) -> list[float]:
    """Return magnitudes from `peak` downwards; the first of equals wins."""
    shares: list[float] = (_SPREAD ** -np.linspace(0.0, 1.0, _CANDIDATES)).tolist()
    return [peak * share for share in shares]


def _error(seen: Histogram, limit: float, grid: Grid) -> float:
    step, centers = limit / grid.qmax, seen.centers
    rounded = grid.nearest(centers / step).astype(np.float64) * step
    return float(np.dot(seen.counts, (centers - rounded) ** 2))

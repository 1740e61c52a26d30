"""A histogram of magnitudes that takes any number of samples in the same memory.

Magnitudes, because symmetric INT8 covers [−t, t]. Bins end at fractions of a power of two. When a
larger value comes, neighbouring bins are merged in pairs and the span doubles, so that no sample is
ever looked at twice and none is kept. So counts depend neither on the order of values nor on how
many histograms they were counted in, before these were joined.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qgraph._graph.tensors import Array

BINS = 4096
"""At least half of them lie below the largest value seen: steps of 1/16 of an INT8 step."""
_NARROWEST = 2.0**-100
"""Of the span: all that is smaller counts as one value."""


class Histogram:
    """Counts of |x| > 0 in `BINS` equal bins of [0, top); zeros are counted apart. `low`, `high`:
    the extremes of x.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.zeros = 0
        self.top = _NARROWEST
        self.low, self.high = math.inf, -math.inf

    @property
    def peak(self) -> float:
        return max(-self.low, self.high, 0.0)

    @property
    def total(self) -> int:
        """Return how many values were added."""
        return self.zeros + int(self.counts.sum())

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the middle of each bin, float64 [BINS]."""
        return (np.arange(BINS) + 0.5) * (self.top / BINS)

    def add(self, values: Array) -> None:
        """Take in an array of any shape, not empty; all of it is finite."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self.peak:
            self._widen(math.ldexp(1.0, math.frexp(self.peak)[1]))
        magnitudes = np.abs(values.astype(np.float64)).ravel()
        magnitudes = magnitudes[magnitudes > 0]
        self.zeros += values.size - magnitudes.size
        bins = (magnitudes * (BINS / self.top)).astype(np.int64)  # exact: a power of two
        self.counts += np.bincount(bins, minlength=BINS)

    def join(self, other: Histogram) -> None:
        """Take in what another saw."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self._widen(other.top)
        self.zeros += other.zeros
        self.counts += _merged(other.counts, self.top / other.top)

    def _widen(self, top: float) -> None:
        """Merge neighbouring bins until they reach `top`, a power of two."""
        if top > self.top:
            self.counts, self.top = _merged(self.counts, top / self.top), top


def _merged(counts: NDArray[np.int64], times: float) -> NDArray[np.int64]:
    """Return the counts of bins so many times as wide, a power of two from 1 on."""
    merged = counts.reshape(-1, min(int(times), BINS)).sum(axis=1)
    return np.concatenate([merged, np.zeros(BINS - merged.size, np.int64)])

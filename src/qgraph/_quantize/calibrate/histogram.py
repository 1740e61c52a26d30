"""A histogram of magnitudes that takes any number of samples in the same memory.

Magnitudes, because symmetric INT8 covers [−t, t]. The span is not known beforehand: when a larger
value comes, neighbouring bins are merged in pairs and the span doubles, so that no sample is ever
looked at twice and none is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qgraph._graph.tensors import Array

BINS = 4096
"""At least half of them lie below the largest value seen: steps of 1/16 of an INT8 step."""
_NARROWEST = 1e-30
"""Of the span: numpy cannot divide a narrower one into bins."""


class Histogram:
    """Counts of |x| > 0 in `BINS` equal bins of [0, top]; zeros are counted apart."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.zeros = 0
        self.top = 0.0
        self.peak = 0.0

    @property
    def total(self) -> int:
        """Return how many values were added."""
        return self.zeros + int(self.counts.sum())

    @property
    def centers(self) -> NDArray[np.float64]:
        """Return the middle of each bin, float64 [BINS]."""
        return (np.arange(BINS) + 0.5) * (self.top / BINS)

    def add(self, values: Array) -> None:
        """Take in an array of any shape; all of it is finite."""
        magnitudes = np.abs(values.astype(np.float64)).ravel()
        magnitudes = magnitudes[magnitudes > 0]
        self.zeros += values.size - magnitudes.size
        if not magnitudes.size:
            return
        self.peak = max(self.peak, float(magnitudes.max()))
        self._widen()
        self.counts += np.histogram(magnitudes, BINS, (0.0, self.top))[0]

    def _widen(self) -> None:
        """Merge bins in pairs until the largest value fits."""
        self.top = self.top or max(self.peak, _NARROWEST)
        while self.top < self.peak:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros(BINS // 2, np.int64)])
            self.top *= 2

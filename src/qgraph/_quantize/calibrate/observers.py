"""Observers: each sees the arrays that one activation takes, one by one, and keeps none.

They know nothing of where arrays come from: a whole model's run, or a walk through its segments.
What they keep is of fixed size, whatever the number of samples. From a histogram of magnitudes
follows how far quantization should reach: what maps to the largest number of INT8 or FP8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from qgraph._graph.tensors import Array
from qgraph._quantize.arithmetic import INT8, Grid
from qgraph._quantize.calibrate.histogram import BINS, Histogram
from qgraph._quantize.scheme import Calibration, Scheme

_INERTIA = 0.9
"""Of a moving average: what a sample leaves of the ones before it (PyTorch's observers: 0.99)."""


@dataclass(frozen=True, slots=True)
class Observed:
    """`rmin`, `rmax`: the extremes seen. `clip`: the magnitude that shall map to the type's largest
    number (127, or FP8's 448), where the method chose one; at most the larger extreme.
    """

    rmin: float
    rmax: float
    clip: float | None = None


class Observer(Protocol):
    """Sees one tensor."""

    def observe(self, values: Array) -> None:
        """Take in the values of one run: any shape, not empty, all finite."""

    def result(self) -> Observed:
        """Return what was seen."""


class MinMax:
    """The extremes: `low` and `high`."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def observe(self, values: Array) -> None:
        self.join((float(values.min()), float(values.max())))

    def join(self, others: tuple[float, float]) -> None:
        """Take in the extremes that another saw."""
        self.low, self.high = min(self.low, others[0]), max(self.high, others[1])

    def result(self) -> Observed:
        """Return the extremes; of a tensor that was always empty, 0 and 0."""
        seen = self.low <= self.high
        return Observed(self.low, self.high) if seen else Observed(0.0, 0.0)


class MovingAverage:
    """The average of each sample's larger magnitude, later samples counting more."""

    def __init__(self) -> None:
        self._extremes = MinMax()
        self._average: float | None = None

    def observe(self, values: Array) -> None:
        self._extremes.observe(values)
        peak = float(np.abs(values).max())
        before = peak if self._average is None else self._average
        self._average = _INERTIA * before + (1 - _INERTIA) * peak

    def result(self) -> Observed:
        seen = self._extremes.result()
        return Observed(seen.rmin, seen.rmax, self._average)


class Thresholded:
    """A histogram, in which the thresholds of many schemes are found; `result` is of the first."""

    def __init__(self, *schemes: Scheme) -> None:
        self._seen = Histogram()
        self._schemes = schemes

    def observe(self, values: Array | Histogram) -> None:
        """Take in one array, or what another process counted in some."""
        if isinstance(values, Histogram):
            self._seen.join(values)
        else:
            self._seen.add(values)

    def result(self) -> Observed:
        return self.results()[0]

    def results(self) -> list[Observed]:
        seen = self._seen
        low, high = (seen.low, seen.high) if seen.total else (0.0, 0.0)
        return [Observed(low, high, _threshold(seen, scheme)) for scheme in self._schemes]


def _threshold(seen: Histogram, scheme: Scheme) -> float:
    match scheme.calibrate:
        case Calibration.PERCENTILE:
            share = scheme.percentile
            assert share is not None  # noqa: S101 - a scheme is validated
            return percentile_threshold(seen, share)
        case Calibration.ENTROPY:
            return entropy_threshold(seen)
        case _:
            return mse_threshold(seen, scheme.grid)


def observer_for(scheme: Scheme) -> Observer:
    """Return a new observer of the method that `scheme` calibrates by."""
    match scheme.calibrate:
        case Calibration.MINMAX | Calibration.OUTPUT | Calibration.AUTO:  # whose clips are searched
            return MinMax()
        case Calibration.MOVING_AVERAGE:
            return MovingAverage()
        case Calibration.PERCENTILE | Calibration.ENTROPY | Calibration.MSE:
            return Thresholded(scheme)
        case _:
            assert_never(scheme.calibrate)


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
    limits = seen.peak * _SPREAD ** -np.linspace(0.0, 1.0, _CANDIDATES)
    levels, steps = grid.magnitudes, limits[:, None] / grid.qmax
    ends = np.zeros((len(limits), len(levels) + 1), np.intp)  # the bins that each level stands for
    middles = (levels[1:] + levels[:-1]) / 2
    ends[:, 1:-1] = np.clip(np.ceil(steps * middles * (BINS / seen.top) - 0.5), 0, BINS)
    ends[:, -1] = BINS
    count, total = (
        np.diff(np.concatenate([[0.0], np.cumsum(of)])[ends], axis=1)
        for of in (seen.counts, seen.counts * seen.centers)
    )
    numbers = levels * steps
    errors = (numbers * (numbers * count - 2 * total)).sum(1)  # less Σ x², the same for all
    return float(limits[errors.argmin()])

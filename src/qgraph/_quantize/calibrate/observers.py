"""Observers: each sees the arrays that one activation takes, one by one, and keeps none.

They know nothing of where arrays come from: a whole model's run, or a walk through its segments.
What they keep is of fixed size, whatever the number of samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._quantize.calibrate.histogram import Histogram
from qgraph._quantize.calibrate.thresholds import (
    entropy_threshold,
    mse_threshold,
    percentile_threshold,
)
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
        ...

    def result(self) -> Observed:
        """Return what was seen."""
        ...


class MinMax:
    """The extremes."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def observe(self, values: Array) -> None:
        """Take in one array."""
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def result(self) -> Observed:
        """Return the extremes; of a tensor that was always empty, 0 and 0."""
        seen = self._low <= self._high
        return Observed(self._low, self._high) if seen else Observed(0.0, 0.0)


class MovingAverage:
    """The average of each sample's larger magnitude, later samples counting more."""

    def __init__(self) -> None:
        self._extremes = MinMax()
        self._average: float | None = None

    def observe(self, values: Array) -> None:
        """Take in one array."""
        self._extremes.observe(values)
        peak = float(np.abs(values).max())
        before = peak if self._average is None else self._average
        self._average = _INERTIA * before + (1 - _INERTIA) * peak

    def result(self) -> Observed:
        """Return the extremes and the average."""
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
        """Return the extremes and the threshold."""
        return self.results()[0]

    def results(self) -> list[Observed]:
        """Return the extremes and the threshold of each scheme."""
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

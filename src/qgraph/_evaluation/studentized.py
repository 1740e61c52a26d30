"""Intervals by the studentized bootstrap: how far draws lie from the figure, in their own errors.

Of a skewed figure a draw without the large samples is low and looks sure of itself. So the
distance of each draw is counted in its own standard error (bootstrap-t: Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, ch. 12.5). Standard errors come from the jackknife's influence
values (ibid. ch. 11), so any figure has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from qgraph._evaluation.proportions import Interval
from qgraph._exporters.resampling import PerSample, Ratio
from qgraph._graph.tensors import Array

_AT_ONCE = 100
_MOST_LEFT_OUT = 1000
_LEAST_ERROR = 0.25
"""Of the whole's error, the least that a draw is taken to have: one of samples that are all alike
has none of its own. With this the interval from 40 samples of which one differs ends where the
exact binomial one does.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A figure over all samples. `influence` float64 [n]: how much each moves it; their mean is 0
    to first order.
    """

    value: float
    influence: Array

    @property
    def error(self) -> float:
        return float(np.sqrt(np.mean(self.influence**2) / self.influence.size))

    def errors(self, weights: Array) -> Array:
        """Return the standard errors [R] of draws; `weights` float64 [R, n], each row sums to n."""
        count = self.influence.size
        mean, square = weights @ self.influence / count, weights @ self.influence**2 / count
        return np.asarray(np.sqrt(np.maximum(square - mean**2, 0.0) / count))

    def less(self, other: Figure) -> Figure:
        """Return the difference of two figures of the same samples."""
        return Figure(self.value - other.value, self.influence - other.influence)

    @property
    def carriers(self) -> float:
        """Return on how many samples of equal influence the standard error would rest as much."""
        squares = self.influence**2
        return float(squares.sum() ** 2 / np.sum(squares**2)) if squares.any() else 0.0


def figures(samples: PerSample) -> dict[str, Figure]:
    """Return the metrics over all samples, with what each moves; what does not exist is left out.

    Of more than 1,000 samples, some are left out together: each then stands for its group.
    """
    count = samples.count
    whole = samples.metrics(np.ones((1, count)))
    groups = np.arange(count) % min(count, _MOST_LEFT_OUT)
    sizes = np.bincount(groups)
    without: dict[str, list[Array]] = {key: [] for key in whole}
    for start in range(0, len(sizes), _AT_ONCE):
        left_out = np.arange(start, min(start + _AT_ONCE, len(sizes)))
        weights = (groups != left_out[:, None]).astype(np.float64)
        for key, values in samples.metrics(weights).items():
            without[key].append(values)
    found = {}
    for key, parts in without.items():
        left = np.concatenate(parts)
        if np.isfinite(whole[key]).all() and np.isfinite(left).all():
            # a group's influence is the sum of its samples', which scatter as its root
            moved = (count - sizes) * (left.mean() - left) / np.sqrt(sizes)
            influence = moved[groups]
            # groups that differ in size by one would shift the mean, which is the figure's
            found[key] = Figure(float(whole[key][0]), influence - influence.mean())
    return found


def quotient(ratio: Ratio) -> Figure:
    """Return a sum over a sum; its influence is the first order's."""
    below = ratio.denominator.sum()
    value = float(ratio.numerator.sum() / below)
    residual = ratio.numerator - value * ratio.denominator
    return Figure(value, residual * len(residual) / below)


def draw(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield weights float64 [R, n]: how often each sample was drawn; each row sums to n."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        yield generator.multinomial(count, even, size).astype(np.float64)


@dataclass(slots=True, eq=False)
class Draws:
    """Draws of a figure."""

    figure: Figure
    _values: list[Array] = field(default_factory=list)
    _errors: list[Array] = field(default_factory=list)

    def add(self, values: Array, weights: Array) -> None:
        """Add what the figure is in draws, [R]; `weights` float64 [R, n]."""
        self._values.append(values)
        self._errors.append(self.figure.errors(weights))

    def interval(self, level: float) -> Interval | None:
        """Return the interval; None where a draw has no such figure."""
        values, errors = np.concatenate(self._values), np.concatenate(self._errors)
        whole, error = self.figure.value, self.figure.error
        if not np.isfinite(values).all():
            return None
        if error == 0:
            return whole, whole
        steps = (values - whole) / np.maximum(errors, _LEAST_ERROR * error)
        first, last = np.quantile(steps, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return whole - float(last) * error, whole - float(first) * error

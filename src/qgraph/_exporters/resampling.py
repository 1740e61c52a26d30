"""What a task keeps of each sample, so that the metrics of any resample can be computed.

A metric is a function of sums over samples. With the sums of each sample kept, drawing samples
anew means adding other rows up; nothing is measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from qgraph._graph.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class Ratio:
    """A metric that is a sum over a sum. Both float64 [n], one entry per sample; an entry of
    `denominator` is 0 where the metric says nothing about the sample.
    """

    numerator: Array
    denominator: Array


class PerSample(Protocol):
    """One variant's figures, sample by sample, in the order of the task's samples."""

    @property
    def count(self) -> int:
        """Return the number of samples."""

    def metrics(self, weights: Array) -> dict[str, Array]:
        """Return metric → float64 [R] for R resamples; `weights` float64 [R, n]: how often each
        sample counts. NaN where a resample has no such figure.
        """

    def ratios(self) -> dict[str, Ratio]:
        """Return the metrics that are a sum over a sum."""


@runtime_checkable
class Resampled(Protocol):
    """A task that can say what it saw sample by sample."""

    def per_sample(self, name: str) -> PerSample:
        """Return the figures of a variant already measured."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleSums:
    """Sums of each sample by column, float64 [n] each.

    `quotients`: metric → its numerator's and denominator's column. `derive`: further metrics, each
    from the columns summed over a resample, [R] each.
    """

    columns: Mapping[str, Array]
    quotients: Mapping[str, tuple[str, str]]
    derive: Callable[[Mapping[str, Array]], dict[str, Array]] = lambda _sums: {}

    @property
    def count(self) -> int:
        return len(next(iter(self.columns.values())))

    def metrics(self, weights: Array) -> dict[str, Array]:
        sums = {name: weights @ column for name, column in self.columns.items()}
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            direct = {key: sums[a] / sums[b] for key, (a, b) in self.quotients.items()}
            return direct | self.derive(sums)

    def ratios(self) -> dict[str, Ratio]:
        return {
            key: Ratio(self.columns[a], self.columns[b]) for key, (a, b) in self.quotients.items()
        }

    def overall(self) -> dict[str, float]:
        """Return the metrics over all samples; one that does not exist is left out."""
        found = self.metrics(np.ones((1, self.count)))
        return {key: float(value[0]) for key, value in found.items() if np.isfinite(value[0])}

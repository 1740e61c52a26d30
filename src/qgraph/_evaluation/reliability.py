"""Which intervals hold less than they say: of too few samples, or made by a few of them.

Decision 060 has the reasons, docs/benchmarks/coverage.md the measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from qgraph._evaluation.studentized import Figure
from qgraph._exporters.resampling import PerSample
from qgraph._metrics.table import metric

EFFECTIVE = 0.25
"""Of the samples, the share that an error must rest on for its interval to hold what it says."""
_CARRIERS = 3
"""Samples that a difference must rest on for the same."""


def effective_samples(figures: Mapping[str, Figure], keys: Collection[str]) -> dict[str, float]:
    """Return error → how many samples of equal size would make it as steady."""
    found = {key: figures[key].effective(metric(key)) for key in keys}
    return {key: count for key, count in found.items() if count is not None}


def doubtful(
    samples: PerSample, effective: Mapping[str, float], keys: Collection[str]
) -> tuple[str, ...]:
    """Return the metrics whose intervals hold less than they say."""
    ratios = samples.ratios()

    def is_doubtful(key: str) -> bool:
        asked = int((ratios[key].denominator > 0).sum()) if key in ratios else samples.count
        uneven = effective.get(key, samples.count) < EFFECTIVE * samples.count
        return uneven or asked < metric(key).enough or key in samples.leaping

    return tuple(filter(is_doubtful, keys))


def rests_on_few(key: str, difference: Figure) -> bool:
    """Return whether so few samples differ that the interval of a difference says little.

    Shares have formulas that mind that themselves.
    """
    return not metric(key).is_share and difference.carriers < _CARRIERS

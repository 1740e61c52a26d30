"""How far a figure would move with other samples: bootstrap intervals, alone and against float.

Samples are drawn anew with replacement (the percentile bootstrap: Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, ch. 13). All variants get the same draws, so that a difference
between two of them is taken sample by sample, and what the samples have in common drops out.
A sample (a text, an image) is drawn as a whole: its tokens depend on each other. Shares of samples
that are right or wrong have formulas of their own (`evaluation.proportions`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.metrics import metric
from evaluation.proportions import (
    Interval,
    difference_interval,
    is_share,
    share_interval,
)
from exporters.resampling import PerSample, Ratio
from graph.tensors import Array

LEVEL = 0.95
RESAMPLES = 2000
_AT_ONCE = 100
FEWEST = 5
"""Of fewer samples no draw says much; there are no intervals then."""


@dataclass(slots=True)
class Intervals:
    """`alone`: metric → interval. `difference`: metric → interval of variant − float."""

    alone: dict[str, Interval] = field(default_factory=dict)
    difference: dict[str, Interval] = field(default_factory=dict)


def bootstrap(
    variants: Mapping[str, PerSample],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Intervals]:
    """Return the intervals of each variant; the first is what differences are taken from."""
    first = next(iter(variants))
    result = {name: Intervals() for name in variants}
    if variants[first].count < FEWEST:
        return result
    drawn: dict[str, list[dict[str, Array]]] = {name: [] for name in variants}
    for weights in _draws(variants[first].count, resamples, seed):
        for name, samples in variants.items():
            drawn[name].append(samples.metrics(weights))
    joined = {name: _joined(parts) for name, parts in drawn.items()}
    for name, metrics in joined.items():
        for key, values in metrics.items():
            _note(result[name].alone, key, values, level)
            if name != first and key in joined[first]:
                _note(result[name].difference, key, values - joined[first][key], level)
        ratios = variants[name].ratios()
        _note_shares(result[name], ratios, level)
        if name != first:
            _note_differences(result[name], variants[first].ratios(), ratios, level)
    return result


def _note_shares(found: Intervals, ratios: Mapping[str, Ratio], level: float) -> None:
    for key, ratio in ratios.items():
        if key in found.alone and metric(key).is_share and is_share(ratio):
            found.alone[key] = share_interval(ratio, level)


def _note_differences(
    found: Intervals, a: Mapping[str, Ratio], b: Mapping[str, Ratio], level: float
) -> None:
    for key in found.difference.keys() & a.keys() & b.keys():
        if metric(key).is_share and is_share(a[key]) and is_share(b[key]):
            found.difference[key] = difference_interval(a[key], b[key], level, paired=True)


def ratio_interval(a: Ratio, b: Ratio, *, paired: bool, share: bool = False) -> Interval | None:
    """Return the interval of b − a; None where it cannot be had.

    `paired`: both are of the same samples, in the same order. Else each is drawn for itself, and
    the interval is the wider for it. `share`: whether they count what is right.
    """
    if min(len(a.numerator), len(b.numerator)) < FEWEST:
        return None
    if share and is_share(a) and is_share(b):
        return difference_interval(a, b, LEVEL, paired=paired)
    one, other = (_ratio_draws(ratio, seed) for ratio, seed in ((a, 0), (b, 0 if paired else 1)))
    found: dict[str, Interval] = {}
    _note(found, "difference", other - one, LEVEL)
    return found.get("difference")


def _ratio_draws(ratio: Ratio, seed: int) -> Array:
    parts = [
        (weights @ ratio.numerator, weights @ ratio.denominator)
        for weights in _draws(len(ratio.numerator), RESAMPLES, seed)
    ]
    above, below = (np.concatenate(side) for side in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def _draws(count: int, resamples: int, seed: int) -> Iterator[Array]:
    """Yield weights float64 [R, n]; each row sums to n."""
    generator = np.random.default_rng(seed)
    even = np.full(count, 1 / count)
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        yield generator.multinomial(count, even, size).astype(np.float64)


def _joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _note(into: dict[str, Interval], key: str, values: Array, level: float) -> None:
    """Add the interval of a metric, unless a resample has no such figure."""
    if np.isfinite(values).all():
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        into[key] = (float(low), float(high))

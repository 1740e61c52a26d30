"""How far figures would move with other samples: differences from float, and shares alone.

Samples are drawn anew with replacement. All variants get the same draws, so that a difference
between two of them is taken sample by sample, and what the samples have in common drops out.
A sample (a text, an image) is drawn as a whole: its tokens depend on each other. Differences get
studentized intervals (`_evaluation.studentized`), shares of what is right have formulas of their
own (`_evaluation.proportions`). Other figures alone, errors above all, get none: decision 061.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qgraph._evaluation.proportions import Interval, difference_interval, is_share, share_interval
from qgraph._evaluation.studentized import Draws, Figure, draw, figures, quotient
from qgraph._exporters.resampling import PerSample, Ratio
from qgraph._graph.tensors import Array
from qgraph._metrics import metric

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 5
"""Of fewer samples no draw says much; there are no intervals then."""
_CARRIERS = 3
"""Samples that a difference must rest on for its interval to hold what it says."""


@dataclass(slots=True)
class Intervals:
    """`alone`: share → interval. `difference`: metric → interval of variant − float. `doubtful`:
    metrics whose difference's interval holds less than it says. `figures`: metric → value and
    influence of each sample.
    """

    alone: dict[str, Interval] = field(default_factory=dict)
    difference: dict[str, Interval] = field(default_factory=dict)
    doubtful: tuple[str, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict, repr=False, compare=False)


def bootstrap(
    variants: Mapping[str, PerSample], *, resamples: int = RESAMPLES
) -> dict[str, Intervals]:
    """Return the intervals of each variant; the first is what differences are taken from."""
    first, *others = variants
    count = variants[first].count
    if count < FEWEST:
        return {name: Intervals() for name in variants}
    result = {name: Intervals(figures=figures(samples)) for name, samples in variants.items()}
    reference, before = result[first].figures, variants[first].ratios()
    drawn = {name: _draws(result[name].figures, reference) for name in others}
    for weights in draw(count, resamples, seed=0):
        of_float = variants[first].metrics(weights)
        for name, changes in drawn.items():
            values = variants[name].metrics(weights)
            for key, item in changes.items():
                item.add(values[key] - of_float[key], weights)
    result[first].alone = _shares(before, is_reference=True)
    for name, changes in drawn.items():
        found, after = result[name], variants[name].ratios()
        found.alone = _shares(after)
        found.difference = _differences(changes, before, after)
        for key, (low, high) in found.alone.items():
            if metric(key).from_float:
                value = reference[key].value
                found.difference[key] = low - value, high - value
        found.doubtful = tuple(
            key
            for key in found.difference
            if asked(key, variants[name]) < metric(key).enough
            or (key in changes and rests_on_few(key, changes[key].figure))
        )
    return result


def ratio_interval(a: Ratio, b: Ratio, *, paired: bool, share: bool = False) -> Interval | None:
    """Return the interval of b − a; None of too few samples, and of different ones unless they are
    shares.

    `paired`: both are of the same samples, in the same order. `share`: whether they count what is
    right.
    """
    if min(len(a.numerator), len(b.numerator)) < FEWEST:
        return None
    if share and is_share(a) and is_share(b):
        return difference_interval(a, b, LEVEL, paired=paired)
    if not paired:
        return None
    found = Draws(quotient(b).less(quotient(a)))
    for weights in draw(len(a.numerator), RESAMPLES, seed=0):
        found.add(_quotients(b, weights) - _quotients(a, weights), weights)
    return found.interval(LEVEL)


def rests_on_few(key: str, difference: Figure) -> bool:
    """Return whether so few samples differ that the interval of a difference says little.

    Shares have formulas that mind that themselves.
    """
    return not metric(key).is_share and difference.carriers < _CARRIERS


def asked(key: str, samples: PerSample) -> int:
    """Return how many samples a metric says something about."""
    ratio = samples.ratios().get(key)
    return samples.count if ratio is None else int((ratio.denominator > 0).sum())


def _quotients(ratio: Ratio, weights: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ ratio.numerator) / (weights @ ratio.denominator))


def _draws(found: Mapping[str, Figure], reference: Mapping[str, Figure]) -> dict[str, Draws]:
    """Return the differences of what does not tell the distance from the reference already."""
    return {
        key: Draws(figure.less(reference[key]))
        for key, figure in found.items()
        if key in reference and not metric(key).from_float
    }


def _shares(ratios: Mapping[str, Ratio], *, is_reference: bool = False) -> dict[str, Interval]:
    """Return the intervals of shares alone; how far the reference is from itself is no estimate."""
    return {
        key: share_interval(ratio, LEVEL)
        for key, ratio in ratios.items()
        if metric(key).is_share
        and not (is_reference and metric(key).from_float)
        and (ratio.denominator > 0).sum() >= FEWEST
    }


def _differences(
    drawn: Mapping[str, Draws], before: Mapping[str, Ratio], after: Mapping[str, Ratio]
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for key, draws in drawn.items():
        a, b = before.get(key), after.get(key)
        interval = draws.interval(LEVEL)
        if interval and a and b and metric(key).is_share and _needs_formula(draws, a, b):
            interval = difference_interval(a, b, LEVEL, paired=True)
        if interval:
            found[key] = interval
    return found


def _needs_formula(drawn: Draws, a: Ratio, b: Ratio) -> bool:
    """Return whether draws cannot tell: of single answers, or where no sample changed."""
    return (is_share(a) and is_share(b)) or drawn.figure.error == 0

"""How far a figure would move with other samples: its interval, alone and against float.

Samples are drawn anew with replacement. All variants get the same draws, so that a difference
between two of them is taken sample by sample, and what the samples have in common drops out.
A sample (a text, an image) is drawn as a whole: its tokens depend on each other. Means and what is
made of them get studentized intervals (`_evaluation.studentized`), shares of what is right have
formulas of their own (`_evaluation.proportions`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qgraph._evaluation.proportions import Interval, difference_interval, is_share, share_interval
from qgraph._evaluation.reliability import doubtful, effective_samples, rests_on_few
from qgraph._evaluation.studentized import Draws, Figure, draw, figures, quotient
from qgraph._exporters.resampling import PerSample, Ratio
from qgraph._graph.tensors import Array
from qgraph._metrics.table import Metric, Scale, metric

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 5
"""Of fewer samples no draw says much; there are no intervals then."""


@dataclass(slots=True)
class Intervals:
    """`alone`: metric → interval. `difference`: metric → interval of variant − float. `effective`:
    metric → how many samples of equal size would make an error as steady. `doubtful`,
    `doubtful_differences`: metrics whose interval alone, or of whose difference, holds less than it
    says. `figures`: metric → value and influence of each sample.
    """

    alone: dict[str, Interval] = field(default_factory=dict)
    difference: dict[str, Interval] = field(default_factory=dict)
    effective: dict[str, float] = field(default_factory=dict)
    doubtful: tuple[str, ...] = ()
    doubtful_differences: tuple[str, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict, repr=False, compare=False)


def bootstrap(
    variants: Mapping[str, PerSample],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Intervals]:
    """Return the intervals of each variant; the first is what differences are taken from."""
    first, *others = variants
    result = {name: Intervals() for name in variants}
    if variants[first].count < FEWEST:
        return result
    for name, samples in variants.items():
        result[name].figures = figures(samples)
    reference = result[first].figures
    alone = {name: _draws_of(found.figures) for name, found in result.items()}
    apart = {name: _draws_of(_less(result[name].figures, reference)) for name in others}
    for weights in draw(variants[first].count, resamples, seed):
        _add(
            alone, apart, {name: item.metrics(weights) for name, item in variants.items()}, weights
        )
    before = variants[first].ratios()
    for name, found in result.items():
        ratios = variants[name].ratios()
        found.alone = _alone(alone[name], ratios, level, is_reference=name == first)
        if name != first:
            found.difference = _differences(apart[name], before, ratios, level)
            found.difference |= _distances(found.alone, reference)
        keys = found.alone | found.difference
        found.effective = effective_samples(found.figures, keys)
        found.doubtful = doubtful(variants[name], found.effective, keys)
        found.doubtful_differences = tuple(
            key
            for key in found.difference
            if key in found.doubtful
            or (key in apart.get(name, {}) and rests_on_few(key, apart[name][key].figure))
        )
    return result


def _add(
    alone: Mapping[str, Mapping[str, Draws]],
    apart: Mapping[str, Mapping[str, Draws]],
    drawn: Mapping[str, Mapping[str, Array]],
    weights: Array,
) -> None:
    """Add draws of all variants and of their differences from the first."""
    first = next(iter(alone))
    for name, figures_drawn in alone.items():
        for key, item in figures_drawn.items():
            item.add(drawn[name][key], weights)
    for name, changes_drawn in apart.items():
        for key, item in changes_drawn.items():
            item.add(drawn[name][key] - drawn[first][key], weights)


def ratio_interval(a: Ratio, b: Ratio, *, paired: bool, share: bool = False) -> Interval | None:
    """Return the interval of b − a; None where it cannot be had.

    `paired`: both are of the same samples, in the same order. Else each is drawn for itself, and
    the interval is the wider for it. `share`: whether they count what is right.
    """
    if min(len(a.numerator), len(b.numerator)) < FEWEST:
        return None
    if share and is_share(a) and is_share(b):
        return difference_interval(a, b, LEVEL, paired=paired)
    one, other = quotient(a), quotient(b)
    found = Draws(other.less(one) if paired else other.less_apart(one))
    of_a = draw(len(a.numerator), RESAMPLES, seed=0)
    if paired:
        for weights in of_a:
            found.add(_quotients(b, weights) - _quotients(a, weights), weights)
    else:
        for weights, others in zip(of_a, draw(len(b.numerator), RESAMPLES, seed=1), strict=True):
            moved = _quotients(b, others) - _quotients(a, weights)
            found.add(moved, np.concatenate([weights, others], 1))
    return found.interval(Scale.LINEAR, LEVEL)


def _quotients(ratio: Ratio, weights: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ ratio.numerator) / (weights @ ratio.denominator))


def _draws_of(found: Mapping[str, Figure]) -> dict[str, Draws]:
    return {key: Draws(figure) for key, figure in found.items()}


def _less(found: Mapping[str, Figure], reference: Mapping[str, Figure]) -> dict[str, Figure]:
    """Return the differences of what does not tell the distance from the reference already."""
    return {
        key: figure.less(reference[key])
        for key, figure in found.items()
        if key in reference and not metric(key).from_float
    }


def _alone(
    drawn: Mapping[str, Draws], ratios: Mapping[str, Ratio], level: float, *, is_reference: bool
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for key, draws in drawn.items():
        known = metric(key)
        interval = draws.interval(_scale(known, draws.figure), level)
        if known.is_share and key in ratios and interval:
            interval = share_interval(ratios[key], level)
        # the reference's distance from itself is no estimate, and of what found nothing wrong the
        # draws find nothing wrong
        is_perfect = known.most is not None and draws.figure.value >= known.most
        if interval and not is_perfect and not (is_reference and known.from_float):
            most = float("inf") if known.most is None else known.most
            found[key] = interval[0], min(interval[1], most)
    return found


def _scale(known: Metric, figure: Figure) -> Scale:
    """Return the scale, or a linear one of a figure that is at the end of its own."""
    ends = {Scale.LOG: 0.0, Scale.REST: 1.0}
    return Scale.LINEAR if figure.value == ends.get(known.scale) else known.scale


def _differences(
    drawn: Mapping[str, Draws],
    before: Mapping[str, Ratio],
    after: Mapping[str, Ratio],
    level: float,
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for key, draws in drawn.items():
        a, b = before.get(key), after.get(key)
        interval = draws.interval(Scale.LINEAR, level)
        if interval and a and b and metric(key).is_share and _needs_formula(draws, a, b):
            interval = difference_interval(a, b, level, paired=True)
        if interval:
            found[key] = interval
    return found


def _needs_formula(drawn: Draws, a: Ratio, b: Ratio) -> bool:
    """Return whether draws cannot tell: of single answers, or where no sample changed."""
    return (is_share(a) and is_share(b)) or drawn.figure.error == 0


def _distances(
    alone: Mapping[str, Interval], reference: Mapping[str, Figure]
) -> dict[str, Interval]:
    """Return the differences of what is a distance from the reference."""
    return {
        key: (low - reference[key].value, high - reference[key].value)
        for key, (low, high) in alone.items()
        if metric(key).from_float and key in reference
    }

"""Intervals of shares: of samples that are each right or wrong.

Drawing samples anew says nothing where all of them are right, as most are in a good model: every
draw has the share 1, and an interval of no width. These formulas know better:

- a share: Wilson's score interval (Journal of the American Statistical Association 22, 1927), and
  of tokens, which depend on those of their own text, Wilson's with the number of independent ones
  that would scatter as much (Dean and Pagano, Statistics in Medicine 34, 2015);
- the difference of two shares of the same samples: Agresti and Min's, which counts half a sample
  more in each of the four cases (Statistics in Medicine 24, 2005);
- of different samples: Newcombe's hybrid of two Wilson intervals (ibid. 17, 1998, method 10).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from qgraph._exporters.resampling import Ratio

Interval = tuple[float, float]


def is_share(ratio: Ratio) -> bool:
    """Return whether each sample counts once or not at all, and is right or wrong."""
    above, below = ratio.numerator, ratio.denominator
    return bool(np.isin(below, (0, 1)).all() and np.isin(above, (0, 1)).all() and below.any())


def share_interval(ratio: Ratio, level: float) -> Interval:
    """Return the interval of a share."""
    share = float(ratio.numerator.sum() / ratio.denominator.sum())
    count, z = _effective(ratio, share), _z(level)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    # exactly so at the ends, where rounding would leave the share itself out
    return (0.0 if share == 0 else middle - z * half, 1.0 if share == 1 else middle + z * half)


def difference_interval(a: Ratio, b: Ratio, level: float, *, paired: bool) -> Interval:
    """Return the interval of the share b − the share a; `paired`: of the same samples."""
    return _paired(a, b, level) if paired else _apart(a, b, level)


def _effective(ratio: Ratio, share: float) -> float:
    """Return how many independent trials would scatter as the samples do."""
    below = ratio.denominator
    samples = float((below > 0).sum())
    residual = ratio.numerator - share * below
    if is_share(ratio) or samples < 2 or not residual.any():
        # where all samples agree nothing is known of the trials within one
        return samples
    variance = float(residual @ residual) * samples / (samples - 1) / float(below.sum()) ** 2
    return share * (1 - share) / variance


def _paired(a: Ratio, b: Ratio, level: float) -> Interval:
    counted = a.denominator > 0
    gained = float(((b.numerator > a.numerator) & counted).sum()) + 0.5
    lost = float(((b.numerator < a.numerator) & counted).sum()) + 0.5
    count = float(counted.sum()) + 2
    spread = math.sqrt(gained + lost - (gained - lost) ** 2 / count) / count
    middle, half = (gained - lost) / count, _z(level) * spread
    return max(-1.0, middle - half), min(1.0, middle + half)


def _apart(a: Ratio, b: Ratio, level: float) -> Interval:
    shares = [float(side.numerator.sum() / side.denominator.sum()) for side in (a, b)]
    (low_a, high_a), (low_b, high_b) = (share_interval(side, level) for side in (a, b))
    difference = shares[1] - shares[0]
    below = math.hypot(shares[1] - low_b, high_a - shares[0])
    above = math.hypot(high_b - shares[1], shares[0] - low_a)
    return difference - below, difference + above


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)

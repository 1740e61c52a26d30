"""Errors of samples compared as ratios: in a total, the one sample that errs most would decide."""

from __future__ import annotations

import math

import numpy as np

from qgraph._graph.tensors import Array

HALVED = math.log(2)
"""What dear ways must gain: entropy clips most, and samples do not show what it cuts off in others;
each rotation that is not absorbed is a float product."""


def gains(errors: Array, others: Array) -> Array:
    """Return how much less `others` are than `errors`, as logarithms of their ratios, float64; 0
    where both are infinite.
    """
    tiny = np.finfo(np.float64).tiny
    with np.errstate(invalid="ignore"):
        found = np.log(np.maximum(errors, tiny)) - np.log(np.maximum(others, tiny))
    gained: Array = np.nan_to_num(found, nan=0.0)
    return gained


def noise(values: Array) -> float:
    """Return the standard error of the mean of `values`, two or more."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))

from __future__ import annotations

import sys
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph._quantize.calibrate.histogram import BINS, Histogram

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=20), min_size=1, max_size=8))
def test_no_value_is_lost_when_bins_merge(rows: list[list[float]]) -> None:
    seen = Histogram()
    for row in rows:
        seen.add(np.array(row, np.float32))
    assert seen.total == sum(map(len, rows))
    assert seen.peak == max(abs(value) for row in rows for value in row)


@given(st.lists(st.lists(FINITE, min_size=1, max_size=20), min_size=1, max_size=8), st.randoms())
def test_counts_depend_neither_on_the_order_nor_on_who_counted(
    rows: list[list[float]], chance: Random
) -> None:
    parts = [np.array(row, np.float32) for row in rows]
    chance.shuffle(parts)
    apart = [Histogram() for _ in parts]
    for seen, part in zip(apart, parts, strict=True):
        seen.add(part)
    # what a worker counted goes into the histogram of all samples, then into one of some of them
    for count in (len(parts), chance.randint(1, len(parts))):
        joined, whole = Histogram(), Histogram()
        whole.add(np.concatenate(parts[-count:]))
        for seen in apart[-count:]:
            joined.join(seen)
        for name in ("low", "high", "zeros", "top", "total"):
            assert getattr(joined, name) == getattr(whole, name)
        assert (joined.counts == whole.counts).all()


def test_counts_are_those_that_numpy_makes_of_all_values() -> None:
    generator = np.random.default_rng(0)
    # spans that double, each end on an edge of bins
    parts = [np.append(generator.uniform(0, span, 1000), span) for span in (1.0, 2.0, 8.0)]
    seen = Histogram()
    for part in parts:
        seen.add(part)
    assert seen.top == 16.0
    assert (seen.counts == np.histogram(np.concatenate(parts), BINS, (0, seen.top))[0]).all()


def test_at_least_half_of_the_bins_lie_below_the_largest_value() -> None:
    seen = Histogram()
    for value in (1.0, 1.7, 900.0, 3.0):
        seen.add(np.array([value]))
        assert seen.peak < seen.top <= 2 * seen.peak


def test_memory_does_not_grow_with_the_samples() -> None:
    generator = np.random.default_rng(0)
    seen = Histogram()
    for scale in range(1, 200):
        seen.add(generator.standard_normal(1000) * scale)
        assert seen.counts.shape == (BINS,)
    held = sum(sys.getsizeof(value) for value in vars(seen).values())
    assert held < 9 * BINS


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38])
def test_values_of_any_size_fit(value: float) -> None:
    seen = Histogram()
    seen.add(np.array([value, 0, -value], np.float32))
    assert seen.total == 3

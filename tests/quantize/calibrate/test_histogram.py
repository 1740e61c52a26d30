from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraph._quantize.calibrate.histogram import BINS, Histogram

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # a busy machine is no defect
@given(st.lists(st.lists(FINITE, min_size=1, max_size=20), min_size=1, max_size=8))
def test_no_value_is_lost_when_bins_merge(rows: list[list[float]]) -> None:
    seen = Histogram()
    for row in rows:
        seen.add(np.array(row, np.float32))
    assert seen.total == sum(map(len, rows))
    assert seen.peak == max(abs(value) for row in rows for value in row)


def test_merged_counts_are_those_of_one_histogram_over_all_values() -> None:
    generator = np.random.default_rng(0)
    # spans that double: bins of the first land exactly on bins of the last
    parts = [generator.uniform(0, span, 1000) for span in (1.0, 2.0, 8.0)]
    parts = [np.append(part, span) for part, span in zip(parts, (1.0, 2.0, 8.0), strict=True)]
    seen = Histogram()
    for part in parts:
        seen.add(part)
    assert seen.top == 8.0
    expected = np.histogram(np.concatenate(parts), BINS, (0, 8.0))[0]
    # a value that lies on an edge, as each span's end does, may fall to either side
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(expected)).max() <= 2


def test_at_least_half_of_the_bins_lie_below_the_largest_value() -> None:
    seen = Histogram()
    for value in (1.0, 1.7, 900.0, 3.0):
        seen.add(np.array([value]))
    assert seen.peak <= seen.top < 2 * seen.peak


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

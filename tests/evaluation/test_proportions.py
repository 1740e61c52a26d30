"""Intervals of shares hold what they should where everything is right, and are the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qgraph._evaluation.intervals import bootstrap, ratio_interval
from qgraph._evaluation.proportions import difference_interval, is_share, share_interval
from qgraph._exporters.resampling import Ratio, SampleSums
from qgraph._graph.tensors import Array

RATIOS = {"top1": ("right", "asked"), "kl": ("kl", "asked")}


def ratio(right: int, count: int) -> Ratio:
    return Ratio((np.arange(count) < right).astype(np.float64), np.ones(count))


@pytest.mark.parametrize(("right", "count"), [(20, 20), (19, 20), (3, 8), (0, 5), (355, 359)])
def test_a_shares_interval_is_scipys(right: int, count: int) -> None:
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    low, high = share_interval(ratio(right, count), 0.95)
    assert low == pytest.approx(theirs.low, abs=1e-12)
    assert high == pytest.approx(theirs.high, abs=1e-12)
    assert low <= right / count <= high


def test_intervals_cover_a_share_near_1_and_its_difference_in_90_percent_of_subsamples() -> None:
    """359 pictures of which 355 are right, and other 350 with the variant, as in a good model."""
    draw = np.random.default_rng(0)
    a, b = ((draw.permutation(359) < right).astype(np.float64) for right in (355, 350))
    for size in (20, 40, 60):
        covered = np.zeros(3)
        for _ in range(200):
            rows = draw.choice(359, size, replace=False)
            one, other = (Ratio(side[rows], np.ones(size)) for side in (a, b))
            found = (
                (share_interval(other, 0.95), b.mean()),
                (difference_interval(one, other, 0.95, paired=True), b.mean() - a.mean()),
                (difference_interval(one, other, 0.95, paired=False), b.mean() - a.mean()),
            )
            covered += [low <= value <= high for (low, high), value in found]
        assert (covered / 200 >= 0.90).all(), (size, covered / 200)


def test_a_paired_difference_is_narrower_where_both_are_wrong_together() -> None:
    a, b = ratio(50, 100), ratio(52, 100)
    paired = difference_interval(a, b, 0.95, paired=True)
    apart = difference_interval(a, b, 0.95, paired=False)
    assert np.diff(paired) < 0.5 * np.diff(apart)
    assert all(low < 0.02 < high for low, high in (paired, apart))


def test_an_evaluations_shares_get_them_and_other_metrics_do_not() -> None:
    """The float model's KL is 0 at every sample, and no share."""
    right, none = np.ones(30), np.zeros(30)
    columns: dict[str, Array] = {"right": right, "asked": right, "kl": none}
    samples = SampleSums(columns, RATIOS)
    found = bootstrap({"float": samples, "D": samples})
    assert found["D"].alone["top1"] == share_interval(ratio(30, 30), 0.95)
    assert "kl" not in found["D"].alone
    low, high = found["D"].difference["top1"]
    assert low < 0 < high
    assert ratio_interval(*2 * [ratio(30, 30)], paired=True, share=True) == (low, high)


def test_counts_of_tokens_are_no_shares_of_samples() -> None:
    assert not is_share(Ratio(np.array([3.0, 1.0]), np.array([4.0, 1.0])))
    assert not is_share(Ratio(np.zeros(2), np.zeros(2)))

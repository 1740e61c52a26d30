from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph._graph.errors import UsageError
from qgraph._quantize.calibrate.observers import Observed, observer_for
from qgraph._quantize.scheme import Calibration, Scheme

METHODS = list(Calibration)


def watched(
    method: Calibration, *arrays: NDArray[np.float32], percentile: float | None = None
) -> Observed:
    observer = observer_for(Scheme(calibrate=method, percentile=percentile))
    for array in arrays:
        observer.observe(array)
    return observer.result()


def normal(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def int8_error(values: NDArray[np.float32], limit: float) -> float:
    step = limit / 127
    return float(np.mean((values - np.clip(np.rint(values / step), -127, 127) * step) ** 2))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_reports_the_extremes(method: Calibration) -> None:
    parts = [normal(500, 1), normal(70, 2)]
    seen = watched(method, *parts)
    both = np.concatenate(parts)
    assert (seen.rmin, seen.rmax) == (both.min(), both.max())


@pytest.mark.parametrize("method", METHODS)
def test_no_method_reaches_beyond_what_was_seen(method: Calibration) -> None:
    seen = watched(method, normal(3000))
    assert seen.clip is None or 0 < seen.clip <= max(-seen.rmin, seen.rmax) * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_result(method: Calibration) -> None:
    seen = watched(method, np.zeros((2, 3), np.float32))
    assert (seen.rmin, seen.rmax) == (0, 0) and not seen.clip


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_is_covered_whole(method: Calibration) -> None:
    for value in (3, 1, 2**-20):  # the last two are edges of bins
        seen = watched(method, np.full((4, 4), -value, np.float32))
        assert seen.clip is None or seen.clip == pytest.approx(value)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_a_percentile_is_that_of_the_distribution(percentile: float) -> None:
    parts = [normal(50_000, seed) for seed in range(4)]
    seen = watched(Calibration.PERCENTILE, *parts, percentile=percentile)
    # |x| of a normal number; 200,000 samples leave the 99.9th percentile about 1 % of noise
    assert seen.clip == pytest.approx(NormalDist().inv_cdf(0.5 + percentile / 200), rel=0.02)


def test_mse_beats_every_other_limit_on_the_values_themselves() -> None:
    values = np.random.default_rng(0).laplace(size=20_000).astype(np.float32)
    found = watched(Calibration.MSE, values).clip
    assert found is not None
    limits = np.linspace(0.05, 1, 300) * np.abs(values).max()
    best = min(int8_error(values, limit) for limit in limits)
    # its grid is as fine as 3.5 %, around a flat minimum
    assert int8_error(values, found) <= 1.02 * best


def test_mse_keeps_an_outlier_that_carries_the_signal_and_clips_none_of_a_uniform() -> None:
    uniform = np.random.default_rng(0).uniform(-1, 1, 10_000).astype(np.float32)
    assert watched(Calibration.MSE, uniform).clip == pytest.approx(1, rel=0.04)


def test_entropy_clips_a_lone_outlier() -> None:
    values = np.append(normal(20_000), np.float32(60))
    clip = watched(Calibration.ENTROPY, values).clip
    assert clip is not None and clip < 15


def test_a_moving_average_follows_the_samples() -> None:
    one, two = np.array([1.0], np.float32), np.array([2.0], np.float32)
    assert watched(Calibration.MOVING_AVERAGE, one, two).clip == pytest.approx(1.1)
    assert watched(Calibration.MOVING_AVERAGE, *[two] * 3).clip == pytest.approx(2)


def test_a_percentile_goes_with_its_method_only() -> None:
    assert Scheme(calibrate=Calibration.PERCENTILE).percentile == 99.99
    with pytest.raises(UsageError, match="percentile goes with"):
        Scheme(percentile=99.0)


@pytest.mark.parametrize(("given", "held"), [("none", "none"), ("auto", "auto"), ("0.50", "0.5")])
def test_smoothing_has_one_spelling(given: str, held: str) -> None:
    assert Scheme(smooth=given).smooth == held


@pytest.mark.parametrize("given", ["0", "1.5", "-1", "nan", "strong", ""])
def test_another_smoothing_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="expected none, auto or a strength"):
        Scheme(smooth=given)

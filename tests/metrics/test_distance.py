from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array
from qgraph._metrics import Comparator, Sums, figures, log_softmax
from qgraph._sensitivity.report import Score

# float32 products of sums kept in float64: each term is rounded once, so 2^-23 and a margin
CLOSE = 1e-6


def pair(*shape: int, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    reference = generator.standard_normal(shape).astype(np.float32)
    return reference, (reference + 0.1 * generator.standard_normal(shape)).astype(np.float32)


def distances(reference: Array, got: Array, *, logits: bool = False) -> Score:
    return Score.of(figures(Comparator(reference, logits=logits).compare(got)))


def test_mse_is_the_mean_of_squared_differences() -> None:
    a, b = pair(4, 50)
    expected = np.mean((a.astype(np.float64) - b) ** 2)
    assert distances(a, b).mse == pytest.approx(expected, rel=CLOSE)


def test_sqnr_is_signal_power_over_error_power_in_decibels() -> None:
    a, b = (array.astype(np.float64) for array in pair(4, 50))
    expected = 10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2))
    got = distances(a, b).sqnr_db
    # 10·log10 turns a relative error of 1e-6 into 4e-6 dB
    assert got == pytest.approx(expected, abs=1e-5)


def test_cosine_is_that_of_the_flattened_outputs() -> None:
    a, b = (array.astype(np.float64) for array in pair(4, 50))
    expected = np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert distances(a, b).cosine == pytest.approx(expected, rel=CLOSE)


def test_kl_is_the_mean_over_positions_in_nats() -> None:
    a, b = (array.astype(np.float64) for array in pair(2, 5, 20))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a, b))
    expected = np.mean(np.sum(p * np.log(p / q), axis=-1))
    # log-probabilities in float32 carry 1e-7 each, the KL itself is about 5e-3
    assert distances(a, b, logits=True).kl == pytest.approx(expected, abs=1e-6)


def test_top1_agreement_is_the_share_of_positions_with_the_same_argmax() -> None:
    reference = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    got = np.array([[2, 0], [0, 2], [0, 2], [0, 2]], np.float32)
    assert distances(reference, got, logits=True).top1_agreement == 0.75


def test_equal_outputs_have_no_sqnr_and_are_otherwise_perfect() -> None:
    a, _ = pair(3, 8)
    result = distances(a, a, logits=True)
    assert (result.mse, result.sqnr_db, result.kl, result.top1_agreement) == (0, None, 0, 1)
    # a quotient of float64 sums
    assert result.cosine == pytest.approx(1, abs=1e-15)


def test_two_outputs_of_zeros_are_equal() -> None:
    zeros = np.zeros(4, np.float32)
    assert distances(zeros, zeros) == Score(mse=0.0, cosine=1.0)


def test_a_reference_of_zeros_has_no_sqnr() -> None:
    assert distances(np.zeros(4, np.float32), np.ones(4, np.float32)) == Score(mse=1.0, cosine=0.0)


def test_without_logits_there_is_no_kl() -> None:
    result = distances(*pair(2, 4))
    assert result.kl is None and result.top1_agreement is None


def test_nothing_added_is_no_distance() -> None:
    assert figures(Sums())["mse"] == 0


@pytest.mark.parametrize("logits", [False, True])
def test_an_output_without_elements_is_no_distance(*, logits: bool) -> None:
    empty = np.zeros((0, 4), np.float32)
    assert distances(empty, empty, logits=logits) == Score(mse=0.0, cosine=1.0)


def test_samples_in_turn_count_like_samples_together() -> None:
    a, b = pair(6, 10)
    parts = slice(0, 2), slice(2, 6)
    total = sum((Comparator(a[p], logits=True).compare(b[p]) for p in parts), Sums())
    together = distances(a, b, logits=True)
    # float32 sums within a block, in another order
    assert figures(total)["mse"] == pytest.approx(together.mse, rel=1e-6)
    assert figures(total)["kl"] == pytest.approx(together.kl, rel=1e-12)


@given(
    arrays=st.tuples(*[hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))] * 2)
)
@settings(max_examples=60)
def test_figures_stay_within_their_bounds(arrays: tuple[Array, Array]) -> None:
    result = distances(*arrays, logits=True)
    assert result.mse >= 0 and result.kl is not None and result.kl >= 0
    # the quotient of two float64 roundings may pass -1 by one unit
    assert result.cosine is not None and -1 - 1e-6 <= result.cosine <= 1
    assert result.top1_agreement is not None and 0 <= result.top1_agreement <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_cannot_be_compared_is_bad_input(value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        distances(np.ones(2, np.float32), np.array([1, value], np.float32))


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [4, 300_000])
def test_masked_outputs_as_low_as_float32_goes_are_compared(sign: int, size: int) -> None:
    a = np.full(size, sign * LOWEST, np.float32)
    a[: size // 2] = 1
    b = a.copy()
    b[0] = 1.5
    result = distances(a, b)
    assert result.mse == pytest.approx(0.25 / size, rel=CLOSE)
    assert result.cosine == pytest.approx(1)


def test_a_mask_taken_for_its_opposite_is_a_finite_error() -> None:
    a = np.array([1, LOWEST], np.float32)
    assert distances(a, -a).mse == pytest.approx(2 * LOWEST**2, rel=CLOSE)
    assert distances(a, -a).cosine == pytest.approx(-1)


def test_log_softmax_is_a_distribution() -> None:
    logits = np.array([[1e4, 0, -1e4], [1, 1, 1]], np.float32)
    # float32 exponentials of logarithms near -1.1
    assert np.exp(log_softmax(logits)).sum(-1) == pytest.approx([1, 1], abs=1e-6)


def test_half_precision_is_compared_in_single() -> None:
    big = np.full(4, 60000, np.float16)
    # 60000 stands in half precision as it is, and its square in single to 2^-24
    assert distances(big, np.zeros(4, np.float16)).mse == pytest.approx(60000.0**2, rel=CLOSE)


def test_the_model_that_gave_nan_is_the_one_that_is_named() -> None:
    good, bad = np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)
    with pytest.raises(InputError, match="The float model's is finite"):
        Comparator(good).compare(bad)
    with pytest.raises(InputError, match="of the float model holds NaN"):
        Comparator(bad).compare(good)

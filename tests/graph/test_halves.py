"""Between half and single precision: what numpy gives, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from qgraph._graph.halves import cast

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
HALVES = np.arange(1 << 16, dtype=np.uint16).view(F16)


def test_every_half_becomes_the_same_number_as_by_numpy() -> None:
    np.testing.assert_array_equal(cast(HALVES, F32), HALVES.astype(F32))


@pytest.mark.filterwarnings("ignore:overflow")
def test_numbers_between_halves_are_rounded_as_by_numpy() -> None:
    held = HALVES[np.isfinite(HALVES)].astype(F32)
    steps = np.spacing(HALVES[np.isfinite(HALVES)]).astype(F32)
    between = np.concatenate([held + share * steps for share in (0.25, 0.5, 0.75)])
    between = np.concatenate([between, np.array([1e30, -1e30, 1e-30, np.inf, np.nan], F32)])
    made = cast(between, F16)
    np.testing.assert_array_equal(made, between.astype(F16))
    np.testing.assert_array_equal(np.signbit(made), np.signbit(between))


def test_a_turned_matrix_and_one_of_few_numbers_are_converted_too() -> None:
    matrix = np.random.default_rng(0).standard_normal((300, 200)).astype(F16)
    for given in (matrix.T, matrix[::2], matrix[:2, :2]):
        np.testing.assert_array_equal(cast(given, F32), given.astype(F32))
    assert cast(matrix, F16) is matrix

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph._metrics import SCORED
from qgraph._sensitivity.ranking.order import harm, ranks
from qgraph._sensitivity.report import Score


@given(st.lists(st.floats(allow_nan=False)))
def test_ranks_are_a_permutation_of_one_to_n(values: list[float]) -> None:
    assert sorted(ranks(values)) == list(range(1, len(values) + 1))


@given(st.lists(st.floats(allow_nan=False)))
def test_a_larger_value_has_a_smaller_rank(values: list[float]) -> None:
    by_rank = [value for _, value in sorted(zip(ranks(values), values, strict=True))]
    assert by_rank == sorted(values, reverse=True)


def test_equal_values_keep_their_order() -> None:
    assert ranks([1.0, 2.0, 1.0]) == [2, 1, 3]


@pytest.mark.parametrize("metric", SCORED)
def test_an_untouched_output_is_never_worse_than_a_damaged_one(metric: str) -> None:
    untouched = Score(mse=0.0, cosine=1.0, kl=0.0, top1_agreement=1.0)
    damaged = Score(mse=1.0, sqnr_db=3.0, cosine=0.9, kl=0.2, top1_agreement=0.5)
    assert harm(untouched, None, None, metric) < harm(damaged, None, None, metric)


@pytest.mark.parametrize("metric", SCORED)
def test_a_node_whose_absence_leaves_less_error_is_worse(metric: str) -> None:
    clean = Score(
        mse=0.1,
        sqnr_db=30.0,
        cosine=0.99,
        kl=0.1,
        top1_agreement=0.9,
        gain=0.9,
        noise_to_signal=0.1,
    )
    still_bad = Score(
        mse=1.0, sqnr_db=3.0, cosine=0.9, kl=0.2, top1_agreement=0.5, gain=0.0, noise_to_signal=1.0
    )
    assert harm(None, clean, still_bad, metric) > harm(None, still_bad, still_bad, metric)
    assert harm(None, still_bad, still_bad, metric) == 0


def test_an_error_where_there_is_no_signal_ranks_worst_by_sqnr() -> None:
    noise_on_silence = Score(mse=1.0, cosine=0.0)
    loud = Score(mse=1.0, sqnr_db=-50.0, cosine=0.0)
    metric = "sqnr_db"
    assert harm(noise_on_silence, None, None, metric) > harm(loud, None, None, metric)


def test_what_leaving_out_removes_is_a_number_where_all_together_have_none() -> None:
    silent, loud, quiet = Score(mse=1.0), Score(mse=1.0, sqnr_db=3.0), Score(mse=0.1, sqnr_db=30.0)
    harms = [harm(None, left, silent, "sqnr_db") for left in (loud, quiet)]
    assert all(map(math.isfinite, harms)) and harms[1] > harms[0]


def test_solo_error_decides_where_both_were_measured() -> None:
    solo, without = Score(mse=2.0, cosine=1.0), Score(mse=0.0, cosine=1.0, gain=9.0)
    assert harm(solo, without, Score(mse=3.0), "mse") == 2.0

"""Intervals of differences cover what they should, and are marked where they cannot hold that."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qgraph._evaluation.intervals import Intervals, bootstrap, ratio_interval
from qgraph._evaluation.studentized import figures, quotient
from qgraph._exporters.resampling import Ratio, SampleSums
from qgraph._graph.tensors import Array

RATIOS = {"loss": ("loss", "tokens"), "top1_agreement": ("agree", "tokens")}


def population(seed: int = 0, count: int = 400) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return a float model's sums and a worse one's: texts of unequal length and difficulty."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(8, 200, count).astype(np.float64)
    loss = tokens * draw.lognormal(1.0, 0.5, count)
    worse = loss + tokens * draw.lognormal(-3.0, 0.6, count)
    agree = draw.binomial(tokens.astype(int), 0.9).astype(np.float64)
    base = {"loss": loss, "tokens": tokens, "agree": tokens}
    return base, {"loss": worse, "tokens": tokens, "agree": agree}


def sums(columns: dict[str, Array], chosen: Array | None = None) -> SampleSums:
    return SampleSums({k: v if chosen is None else v[chosen] for k, v in columns.items()}, RATIOS)


def test_95_percent_intervals_cover_the_full_value_in_at_least_90_percent_of_subsamples() -> None:
    a, b = population()
    full = {"a": sums(a).overall(), "b": sums(b).overall()}
    draw, covered, trials = np.random.default_rng(1), np.zeros(2), 200
    for _ in range(trials):
        chosen = draw.choice(400, 60, replace=False)
        found = bootstrap({"a": sums(a, chosen), "b": sums(b, chosen)}, resamples=400)["b"]
        wanted = [
            (found.alone["top1_agreement"], full["b"]["top1_agreement"]),
            (found.difference["loss"], full["b"]["loss"] - full["a"]["loss"]),
        ]
        covered += [low <= value <= high for (low, high), value in wanted]
    assert (covered / trials >= 0.90).all(), covered / trials


def test_intervals_are_not_wider_than_they_must_be() -> None:
    """That of a difference is about as wide as what repeated draws of 60 scatter over; these are
    skewed, so that it is somewhat wider.
    """
    a, b = population()
    draw = np.random.default_rng(2)
    parts = [draw.choice(400, 60) for _ in range(1000)]
    moved = [sums(b, part).overall()["loss"] - sums(a, part).overall()["loss"] for part in parts]
    scatter = np.quantile(moved, [0.025, 0.975])
    widths = [
        high - low
        for part in parts[:20]
        for low, high in [
            bootstrap({"a": sums(a, part), "b": sums(b, part)})["b"].difference["loss"]
        ]
    ]
    assert np.median(widths) == pytest.approx(scatter[1] - scatter[0], rel=0.3)


def test_the_interval_of_a_mean_difference_of_normal_values_is_students() -> None:
    values = np.random.default_rng(3).normal(5, 1, 40)
    low, high = bootstrap({"a": losses(0 * values), "b": losses(values)}, resamples=8000)[
        "b"
    ].difference["loss"]
    theirs = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    # these 40 are not exactly normal, and ends of 8,000 draws scatter by about 2 % of the width
    assert (low, high) == pytest.approx(theirs, abs=0.08 * (theirs[1] - theirs[0]))


def losses(values: Array) -> SampleSums:
    return SampleSums(
        {"loss": values, "tokens": np.ones(len(values))}, {"loss": ("loss", "tokens")}
    )


def test_a_skewed_differences_interval_covers_its_mean_in_90_percent_of_samples() -> None:
    """Of log-normal ones with σ = 0.7; from 60, as far heavier tails take far more samples."""
    draw, truth, trials = np.random.default_rng(4), np.exp(0.7**2 / 2), 300
    found = [
        bootstrap(
            {"a": losses(np.zeros(60)), "b": losses(draw.lognormal(0, 0.7, 60))}, resamples=300
        )
        for _ in range(trials)
    ]
    held = [low <= truth <= high for item in found for low, high in [item["b"].difference["loss"]]]
    assert np.mean(held) >= 0.9


def test_an_error_has_no_interval_alone_nor_of_its_difference_from_none() -> None:
    """It rests on few samples, and no interval of it holds 95 % (decision 061)."""
    values = np.random.default_rng(5).lognormal(0, 0.5, 120)
    samples = [
        SampleSums(
            {"error": item, "elements": np.ones(120)},
            {"mse": ("error", "elements"), "kl": ("error", "elements")},
        )
        for item in (0 * values, values)
    ]
    found = bootstrap(dict(zip(("float", "D"), samples, strict=True)), resamples=100)["D"]
    assert found.alone == {} and found.difference == {} and found.doubtful == ()


def test_a_share_of_agreement_differs_from_floats_own_by_itself() -> None:
    a, b = population(count=50)
    found = bootstrap({"float": sums(a), "D": sums(b)}, resamples=100)
    assert found["float"].alone == {}
    low, high = found["D"].alone["top1_agreement"]
    assert found["D"].difference["top1_agreement"] == (low - 1, high - 1)


def test_a_difference_from_fewer_samples_than_it_takes_is_marked() -> None:
    a, b = population(count=40)
    for count, marked in ((39, True), (40, False)):
        part = np.arange(count)
        found = bootstrap({"a": sums(a, part), "b": sums(b, part)}, resamples=100)["b"]
        assert ("loss" in found.doubtful) is marked


def test_a_difference_that_two_samples_make_is_marked_and_one_that_all_make_is_not() -> None:
    a, b = population(count=100)
    moved = a["loss"] + np.where(np.arange(100) < 2, 5.0, 0.0)
    found = bootstrap({"float": sums(a), "few": sums(a | {"loss": moved}), "all": sums(b)})
    assert "loss" in found["few"].doubtful and "loss" not in found["all"].doubtful


def test_tokens_that_all_agree_leave_room_for_others() -> None:
    tokens = np.full(40, 100.0)
    samples = SampleSums({"loss": tokens, "agree": tokens, "tokens": tokens}, RATIOS)
    low, high = bootstrap({"a": samples, "b": samples})["b"].alone["top1_agreement"]
    assert high == 1.0 and 0.9 < low < 0.95


def test_batches_in_which_nothing_changed_leave_room_for_a_difference() -> None:
    eights = np.full(50, 8.0)
    samples = SampleSums({"right": eights - 1, "asked": eights}, {"top1": ("right", "asked")})
    low, high = bootstrap({"a": samples, "b": samples})["b"].difference["top1"]
    assert low == -high and 0 < high < 0.05


@pytest.mark.parametrize("count", [200, 2500])
def test_influence_is_the_first_orders(count: int) -> None:
    """Also of so many samples that they are left out in groups."""
    columns, _ = population(count=count)
    jackknife = figures(sums(columns))["loss"]
    exact = quotient(Ratio(columns["loss"], columns["tokens"]))
    assert jackknife.value == pytest.approx(exact.value)
    # what is kept for pairing has the figure as its mean
    assert abs(jackknife.influence.mean()) < 1e-9 * np.abs(jackknife.influence).max()
    # of 1,000 groups of two or three the error is known to 1 / √2000
    assert jackknife.error == pytest.approx(exact.error, rel=0.02 if count < 1000 else 0.07)


def test_a_difference_is_taken_over_the_same_draws() -> None:
    a, b = population()
    found = bootstrap({"a": sums(a), "b": sums(b)})["b"]
    alone = quotient(Ratio(b["loss"], b["tokens"])).error
    assert np.diff(found.difference["loss"]) < alone
    same = bootstrap({"a": sums(a), "b": sums(a)})["b"]
    assert same.difference["loss"] == (0.0, 0.0)


def test_the_reference_has_no_difference() -> None:
    a, b = population()
    assert bootstrap({"a": sums(a), "b": sums(b)})["a"].difference == {}


def test_the_same_samples_give_the_same_interval() -> None:
    a, b = population()
    first, again = (bootstrap({"a": sums(a), "b": sums(b)}) for _ in range(2))
    assert first == again


def test_a_handful_of_samples_has_no_interval() -> None:
    a, b = population(count=4)
    assert bootstrap({"a": sums(a), "b": sums(b)})["b"] == Intervals()


def test_a_metric_that_some_draws_lack_has_no_interval() -> None:
    a, b = population(count=10)
    asked = np.array([1.0] + 9 * [0.0])
    ratios = RATIOS | {"vqa_accuracy": ("right", "asked")}
    more = {"asked": asked, "right": asked}
    found = bootstrap({"a": SampleSums(a | more, ratios), "b": SampleSums(b | more, ratios)})["b"]
    assert "loss" in found.difference
    assert "vqa_accuracy" not in found.difference and "vqa_accuracy" not in found.alone


def test_other_samples_have_an_interval_of_shares_only() -> None:
    a, b = (Ratio(side["loss"], side["tokens"]) for side in population())
    assert ratio_interval(a, b, paired=True) and ratio_interval(a, b, paired=False) is None
    right = Ratio(np.ones(40), np.ones(40))
    assert ratio_interval(right, right, paired=False, share=True)

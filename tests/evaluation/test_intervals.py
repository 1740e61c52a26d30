"""Intervals cover what they should, are paired, and are marked where they cannot hold that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from qgraph._evaluation.intervals import bootstrap, ratio_interval
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
    draw, covered, trials = np.random.default_rng(1), np.zeros(3), 200
    for _ in range(trials):
        chosen = draw.choice(400, 60, replace=False)
        found = bootstrap({"a": sums(a, chosen), "b": sums(b, chosen)}, resamples=400)["b"]
        wanted = [
            (found.alone["loss"], full["b"]["loss"]),
            (found.alone["top1_agreement"], full["b"]["top1_agreement"]),
            (found.difference["loss"], full["b"]["loss"] - full["a"]["loss"]),
        ]
        covered += [low <= value <= high for (low, high), value in wanted]
    assert (covered / trials >= 0.90).all(), covered / trials


def test_intervals_are_not_wider_than_they_must_be() -> None:
    """The float model's interval is about as wide as what repeated draws of 60 scatter over; these
    losses are skewed, so that it is somewhat wider.
    """
    a, _ = population()
    draw = np.random.default_rng(2)
    parts = [draw.choice(400, 60) for _ in range(1000)]
    scatter = np.quantile([sums(a, part).overall()["loss"] for part in parts], [0.025, 0.975])
    widths = [
        high - low
        for part in parts[:20]
        for low, high in [bootstrap({"a": sums(a, part)})["a"].alone["loss"]]
    ]
    assert np.median(widths) == pytest.approx(scatter[1] - scatter[0], rel=0.3)


def test_the_interval_of_a_mean_of_normal_values_is_students() -> None:
    values = np.random.default_rng(3).normal(5, 1, 40)
    samples = SampleSums(
        {"loss": values, "tokens": np.ones(40)}, RATIOS | {"top1_agreement": ("loss", "tokens")}
    )
    low, high = bootstrap({"a": samples}, resamples=8000)["a"].alone["loss"]
    theirs = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    # these 40 are not exactly normal, and ends of 8,000 draws scatter by about 2 % of the width
    assert (low, high) == pytest.approx(theirs, abs=0.08 * (theirs[1] - theirs[0]))


def errors(values: Array, **more: Any) -> SampleSums:
    columns = {"error": values, "elements": np.ones(len(values))}
    return SampleSums(columns, {"mse": ("error", "elements"), "kl": ("error", "elements")}, **more)


def test_a_skewed_errors_interval_covers_its_mean_in_90_percent_of_samples() -> None:
    """Of log-normal errors with σ = 1, the percentile bootstrap from 40 covers 86 %."""
    draw, truth, trials = np.random.default_rng(4), np.exp(0.5), 300
    found = [
        bootstrap({"a": errors(np.zeros(40)), "b": errors(draw.lognormal(0, 1, 40))}, resamples=300)
        for _ in range(trials)
    ]
    held = [low <= truth <= high for item in found for low, high in [item["b"].alone["mse"]]]
    assert np.mean(held) >= 0.9


def test_an_error_that_a_few_samples_make_is_marked() -> None:
    draw = np.random.default_rng(5)
    steady, uneven = draw.lognormal(0, 0.5, 120), draw.lognormal(0, 2.5, 120)
    found = bootstrap({"float": errors(0 * steady), "A": errors(steady), "D": errors(uneven)})
    assert found["A"].doubtful == () and found["D"].doubtful == ("mse", "kl")
    # of log-normal values, n samples count as n · exp(−σ²)
    assert found["A"].effective["mse"] == pytest.approx(120 * np.exp(-(0.5**2)), rel=0.1)
    assert found["D"].effective["mse"] < 30


def test_a_variant_that_equals_float_is_not_marked() -> None:
    nothing = np.zeros(120)
    found = bootstrap({"float": errors(nothing), "same": errors(nothing)}, resamples=100)
    assert found["same"].doubtful == () and found["same"].effective == {}


def test_a_figure_from_fewer_samples_than_it_takes_is_marked() -> None:
    values = np.random.default_rng(6).lognormal(0, 0.5, 100)
    for count, marked in ((59, ("mse", "kl")), (60, ("kl",)), (99, ("kl",)), (100, ())):
        part = values[:count]
        found = bootstrap({"float": errors(0 * part), "D": errors(part)}, resamples=100)
        assert found["D"].doubtful == marked


def test_a_metric_that_single_samples_can_make_is_always_marked() -> None:
    values = np.random.default_rng(6).lognormal(0, 0.1, 200)
    leaping = errors(values, leaping=frozenset({"mse"}))
    found = bootstrap({"float": errors(0 * values), "D": leaping}, resamples=100)
    assert found["D"].doubtful == ("mse",)


def test_the_distance_from_float_differs_from_floats_own_by_itself() -> None:
    values = np.random.default_rng(7).lognormal(0, 0.5, 50)
    found = bootstrap({"float": errors(0 * values), "D": errors(values)})
    assert found["float"].alone == {}
    assert found["D"].difference == found["D"].alone


def test_a_difference_that_two_samples_make_is_marked_and_one_that_all_make_is_not() -> None:
    a, b = population(count=100)
    moved = a["loss"] + np.where(np.arange(100) < 2, 5.0, 0.0)
    found = bootstrap({"float": sums(a), "few": sums(a | {"loss": moved}), "all": sums(b)})
    assert "loss" in found["few"].doubtful_differences and "loss" not in found["few"].doubtful
    assert "loss" not in found["all"].doubtful_differences


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
    width = np.diff(found.difference["loss"])
    assert width < 0.5 * np.diff(found.alone["loss"])
    same = bootstrap({"a": sums(a), "b": sums(a)})["b"]
    assert same.difference["loss"] == (0.0, 0.0)


def test_the_reference_has_no_difference() -> None:
    a, b = population()
    assert bootstrap({"a": sums(a), "b": sums(b)})["a"].difference == {}


def test_the_same_samples_give_the_same_interval() -> None:
    a, _ = population()
    assert bootstrap({"a": sums(a)}) == bootstrap({"a": sums(a)})


def test_a_handful_of_samples_has_no_interval() -> None:
    a, _ = population(count=4)
    assert bootstrap({"a": sums(a)})["a"].alone == {}


def test_a_metric_that_some_draws_lack_has_no_interval() -> None:
    a, _ = population(count=10)
    asked = np.array([1.0] + 9 * [0.0])
    columns = a | {"asked": asked, "right": asked}
    found = bootstrap({"a": SampleSums(columns, RATIOS | {"vqa_accuracy": ("right", "asked")})})
    assert found["a"].alone.keys() == {"loss"}


def test_unpaired_samples_make_a_wider_interval() -> None:
    a, b = (Ratio(side["loss"], side["tokens"]) for side in population())
    paired, alone = (ratio_interval(a, b, paired=value) for value in (True, False))
    assert paired and alone
    assert np.diff(alone) > 2 * np.diff(paired)

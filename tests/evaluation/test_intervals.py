"""Intervals cover what they should, are paired, and agree with SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.intervals import bootstrap, ratio_interval
from exporters.resampling import Ratio, SampleSums
from graph.tensors import Array

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
    """The float model's interval is as wide as what repeated draws of 60 scatter over."""
    a, _ = population()
    draw = np.random.default_rng(2)
    parts = [draw.choice(400, 60) for _ in range(1000)]
    scatter = np.quantile([sums(a, part).overall()["loss"] for part in parts], [0.025, 0.975])
    widths = [
        high - low
        for part in parts[:20]
        for low, high in [bootstrap({"a": sums(a, part)})["a"].alone["loss"]]
    ]
    assert np.median(widths) == pytest.approx(scatter[1] - scatter[0], rel=0.2)


def test_the_interval_is_scipys() -> None:
    a, _ = population(count=80)
    low, high = bootstrap({"a": sums(a)})["a"].alone["loss"]
    theirs = stats.bootstrap(
        (a["loss"], a["tokens"]),
        lambda loss, tokens, axis: loss.sum(axis) / tokens.sum(axis),
        paired=True, vectorized=True, n_resamples=2000, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    # both ends scatter by a few percent of the width with 2,000 draws
    room = 0.1 * (theirs.high - theirs.low)
    assert low == pytest.approx(theirs.low, abs=room)
    assert high == pytest.approx(theirs.high, abs=room)


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
    assert found["a"].alone.keys() == RATIOS.keys()


def test_unpaired_samples_make_a_wider_interval() -> None:
    a, b = (Ratio(side["loss"], side["tokens"]) for side in population())
    paired, alone = (ratio_interval(a, b, paired=value) for value in (True, False))
    assert paired and alone
    assert np.diff(alone) > 2 * np.diff(paired)

"""Searching the largest set under a budget by what is predicted, on errors that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.tensors import Array
from qgraph._metrics.budget import Budget
from qgraph._sensitivity.ranking.profiles import Unit
from qgraph._sensitivity.search.predicted import search_predicted
from qgraph._sensitivity.search.sets import largest_within

LOSS = Budget.parse("loss<=1.1x")
NOTHING = frozenset[str]()


def gram(count: int, seed: int = 0, size: int = 30) -> Array:
    """Return what units with errors of many sizes do together."""
    generator = np.random.default_rng(seed)
    errors = generator.standard_normal((count, size)) * np.geomspace(0.01, 0.3, count)[:, None]
    matrix: Array = errors @ errors.T / size
    return matrix


def units_for(pairs: Array, weights: list[float] | None = None) -> list[Unit]:
    weights = weights or [1.0] * len(pairs)
    made = zip(pairs.diagonal(), weights, strict=True)
    return [Unit((f"n{at}",), float(harm), weight) for at, (harm, weight) in enumerate(made)]


class Measured:
    """A loss of 1 and some function of what units do together; counts what was asked."""

    def __init__(self, pairs: Array, power: float = 1.0, scale: float = 1.0) -> None:
        self.pairs, self.power, self.scale = pairs, power, scale
        self.asked: list[frozenset[str]] = []

    def __call__(self, nodes: frozenset[str]) -> float:
        self.asked.append(nodes)
        at = [int(name[1:]) for name in nodes]
        damage = max(0.0, float(self.pairs[np.ix_(at, at)].sum()))
        return float(1.0 + self.scale * damage**self.power)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.001, 0.2))
def test_no_larger_set_of_few_units_is_predicted_to_fit(seed: int, limit: float) -> None:
    pairs, weights = gram(9, seed, size=400), np.ones(9)
    chosen = largest_within(pairs, weights, limit)
    assert chosen @ pairs @ chosen <= limit + 1e-12
    most = max(
        size
        for size in range(10)
        for each in itertools.combinations(range(9), size)
        if pairs[np.ix_(each, each)].sum() <= limit
    )
    assert chosen.sum() == most


def test_units_of_more_weight_take_the_place_of_others() -> None:
    # by damage for its weight the first goes first, and leaves no room for the second
    pairs, weights = np.diag([0.05, 0.09]), np.array([1.0, 1.7])
    assert largest_within(pairs, weights, 0.1).tolist() == [False, True]


def test_what_weighs_nothing_is_added_and_taken_out_by_its_damage() -> None:
    pairs, weights = np.diag([6e8, 5e8, 1.0, 7e8]), np.array([0.0, 0.0, 1.0, 0.0])
    assert largest_within(pairs, weights, 1.2e9).tolist() == [True, True, True, False]


@pytest.mark.parametrize(("power", "scale"), [(1.0, 1.0), (1.0, 0.2), (0.5, 0.4), (1.6, 3.0)])
@pytest.mark.parametrize("count", [9, 12])
def test_a_handful_of_measurements_finds_what_trying_all_sets_finds(
    count: int, power: float, scale: float
) -> None:
    """Whatever power of the damage the metric goes by, and where nothing was measured before."""
    pairs = gram(count, size=400)
    loss, other = Measured(pairs, power, scale), Measured(pairs, power, scale)
    found = search_predicted(units_for(pairs), pairs, LOSS, loss, {NOTHING: 1.0})
    assert loss(frozenset(name for unit in found.units for name in unit.members)) == found.value
    assert found.value <= 1.1
    names = [f"n{at}" for at in range(count)]
    sizes = (size for size in range(count, -1, -1) if fitting(other, names, size))
    assert len(found.units) >= next(sizes) - 1
    assert found.measurements <= 6


def fitting(loss: Measured, names: list[str], size: int) -> bool:
    return any(loss(frozenset(each)) <= 1.1 for each in itertools.combinations(names, size))


def test_progress_ends_where_the_search_ends() -> None:
    shown: list[tuple[int, int]] = []
    units, loss = units_for(gram(40)), Measured(gram(40))
    found = search_predicted(
        units,
        gram(40),
        LOSS,
        loss,
        {NOTHING: 1.0},
        lambda _, done, total: shown.append((done, total)),
    )
    assert shown[-1] == (found.measurements, found.measurements)
    assert shown == sorted(shown, key=lambda pair: pair[0])


def test_what_was_measured_before_is_not_measured_again() -> None:
    pairs = gram(60)
    loss, units = Measured(pairs), units_for(pairs)
    order = sorted(units, key=lambda unit: unit.harm)
    sets = [frozenset(unit.members[0] for unit in order[:count]) for count in (0, 20, 40, 60)]
    known = {nodes: loss(nodes) for nodes in sets}
    before = len(loss.asked)
    found = search_predicted(units, pairs, LOSS, loss, known)
    now = loss.asked[before:]
    assert len(now) == len(set(now)) == found.measurements <= 6
    assert not set(now) & set(sets)


def test_a_prediction_that_misleads_costs_size_and_never_the_budget() -> None:
    """Pairs are those of other units: what was measured decides."""
    loss = Measured(gram(40, seed=1))
    shuffled = np.random.default_rng(2).permutation(40)
    pairs = gram(40, seed=1)[np.ix_(shuffled, shuffled)]
    found = search_predicted(units_for(pairs), pairs, LOSS, loss, {NOTHING: 1.0})
    assert found.measurements <= 6
    assert found.value == loss(frozenset(u.members[0] for u in found.units)) <= 1.1


def test_where_everything_fits_one_measurement_is_enough() -> None:
    loss = Measured(gram(30), scale=1e-6)
    found = search_predicted(units_for(gram(30)), gram(30), LOSS, loss, {NOTHING: 1.0})
    assert (len(found.units), found.measurements) == (30, 1)


def test_where_nothing_fits_the_profile_is_empty() -> None:
    units = units_for(gram(20))
    found = search_predicted(units, gram(20), LOSS, lambda _: math.nan, {NOTHING: 1.0})
    assert found.units == () and found.value == 1.0


def test_sqnr_is_searched_from_a_float_model_that_has_none() -> None:
    """With no error the SQNR is infinite: it is searched by the noise, which adds up."""
    pairs, budget = gram(60), Budget.parse("sqnr_db>=16")

    def measure(nodes: frozenset[str]) -> float:
        return -10 * math.log10(Measured(pairs)(nodes) - 1 + 1e-12)

    found = search_predicted(units_for(pairs), pairs, budget, measure, {NOTHING: math.inf})
    noise = largest_within(pairs, np.ones(60), 10**-1.6)
    assert found.value >= 16
    assert len(found.units) >= noise.sum() - 1


def test_a_budget_that_the_float_model_breaks_is_said() -> None:
    with pytest.raises(InputError, match="float model itself"):
        search_predicted(
            units_for(gram(2)), gram(2), Budget.parse("loss<=0.5"), lambda _: 1.0, {NOTHING: 1.0}
        )


def test_a_metric_where_more_is_better() -> None:
    budget = Budget.parse("top1 >= 0.99x")
    assert budget.is_met(0.992, 1.0) and not budget.is_met(0.98, 1.0)
    assert Budget.parse("sqnr_db>=30").is_met(31.0, math.inf)


@pytest.mark.parametrize("text", ["loss", "loss<1", "loss<=", "<=1", "loss<=1.2.3", "loss<=-1"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="limit"):
        Budget.parse(text)

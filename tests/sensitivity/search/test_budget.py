"""Searching the largest set under a budget, on errors that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraph._graph.errors import InputError, UsageError
from qgraph._metrics.budget import Budget
from qgraph._sensitivity.ranking.profiles import Unit
from qgraph._sensitivity.search.budget import search_budget

LOSS = Budget.parse("loss<=1.1x")


def units(errors: Sequence[float]) -> list[Unit]:
    made = [Unit((f"n{i}",), error, 1.0) for i, error in enumerate(errors)]
    return sorted(made, key=lambda unit: unit.harm)


class Additive:
    """A loss of 1 to which each quantized node adds its error; counts what was asked."""

    def __init__(self, errors: Sequence[float], pairs: dict[frozenset[str], float] | None = None):
        self.errors = {f"n{i}": error for i, error in enumerate(errors)}
        self.pairs = pairs or {}
        self.asked = 0

    def __call__(self, nodes: frozenset[str]) -> float:
        self.asked += 1
        found = math.fsum(self.errors[name] for name in nodes)
        return 1.0 + found + sum(v for pair, v in self.pairs.items() if pair <= nodes)


def names(found: Sequence[Unit]) -> set[str]:
    return {name for unit in found for name in unit.members}


@settings(deadline=None)  # a busy machine is no defect
@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=12))
def test_what_is_found_fits_and_nothing_can_be_added(errors: list[float]) -> None:
    loss = Additive(errors)
    found = search_budget(units(errors), LOSS, loss)
    assert loss(frozenset(names(found.units))) == found.value <= 1.1
    for name in loss.errors.keys() - names(found.units):
        assert loss(frozenset(names(found.units) | {name})) > 1.1


def test_where_everything_fits_two_measurements_are_enough() -> None:
    errors = [0.0001] * 50
    loss = Additive(errors)
    assert len(search_budget(units(errors), LOSS, loss).units) == 50
    assert loss.asked == 2


def test_no_set_is_measured_twice() -> None:
    errors = [0.01 * i for i in range(20)]
    loss = Additive(errors)
    found = search_budget(units(errors), LOSS, loss)
    assert loss.asked == found.measurements


@pytest.mark.parametrize("count", [1, 2, 40])
def test_progress_ends_where_the_search_ends(count: int) -> None:
    shown: list[tuple[int, int]] = []
    loss = Additive([0.01 * i for i in range(count)])
    units_ = units(list(loss.errors.values()))
    found = search_budget(units_, LOSS, loss, lambda _, done, total: shown.append((done, total)))
    assert shown[-1] == (found.measurements, found.measurements)
    assert all(done <= total for done, total in shown)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)


def test_errors_that_cancel_are_found() -> None:
    # n3 alone breaks the budget, but undoes what n0 does
    errors = [0.05, 0.01, 0.02, 0.09]
    loss = Additive(errors, {frozenset({"n0", "n3"}): -0.1})
    found = search_budget(units(errors), LOSS, loss)
    assert names(found.units) == {"n0", "n1", "n2", "n3"}


def test_an_exchange_brings_more_for_the_same_budget() -> None:
    # by error per node n0 goes first and leaves no room for two others that go together
    big = [Unit(("n0",), 0.06, 1.0), Unit(("n1",), 0.061, 2.0), Unit(("n2",), 0.2, 1.0)]
    loss = Additive([0.06, 0.061, 0.2])
    found = search_budget(big, LOSS, loss)
    assert names(found.units) == {"n1"}


def test_nan_is_over_every_budget() -> None:
    found = search_budget(units([0.1]), LOSS, lambda nodes: math.nan if nodes else 1.0)
    assert found.units == ()


def test_a_metric_where_more_is_better() -> None:
    budget = Budget.parse("top1 >= 0.99x")
    assert budget.is_met(0.992, 1.0) and not budget.is_met(0.98, 1.0)
    assert Budget.parse("sqnr_db>=30").is_met(31.0, math.inf)


@pytest.mark.parametrize("text", ["loss", "loss<1", "loss<=", "<=1", "loss<=1.2.3", "loss<=-1"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="limit"):
        Budget.parse(text)


def test_a_budget_that_the_float_model_breaks_is_said() -> None:
    with pytest.raises(InputError, match="float model itself"):
        search_budget(units([0.1]), Budget.parse("loss<=0.5"), Additive([0.1]))

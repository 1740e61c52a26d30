"""What nodes do together: kept in the report, and what profiles are cut and predicted by."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph._graph.errors import InputError
from qgraph._graph.io.models import ModelId
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.beside_scores import Interactions, MeasuredSet
from qgraph._sensitivity.ranking.interactions import Gram, packed
from qgraph._sensitivity.ranking.profiles import By, Unit, cut_profiles, units_of
from qgraph._sensitivity.report import Direction, NodeScore, Run, Score, Sensitivity

Errors = NDArray[np.float64]


def report_of(errors: Errors, macs: tuple[int, ...] = ()) -> Sensitivity:
    """Return a report of nodes whose errors at the outputs are the rows of `errors`."""
    names = tuple(f"n{index}" for index in range(len(errors)))
    run = Run(
        qgraph="0", engine="gradient", direction=Direction.SOLO, provider="cpu", device="cpu",
        samples=1, seed=0, data="x", synthetic=False, packages={}, started="", seconds=1.0,
        setup_seconds=0.0, scoring_seconds=1.0, forward_seconds=1.0, forward_equivalents=1.0,
        ideal_forward_equivalents=1.0, complete=True,
    )  # fmt: skip
    nodes = tuple(
        NodeScore(
            name=name, op_type="MatMul", scope="", params=1, rank=at + 1,
            macs=macs[at] if macs else 1, solo=Score(mse=float(errors[at] @ errors[at])),
        )
        for at, name in enumerate(names)
    )  # fmt: skip
    return Sensitivity(
        schema=Sensitivity.SCHEMA, model=ModelId(path="m.onnx", sha256="00"), scheme=Scheme(),
        run=run, metric="mse", outputs=("y",), nodes=nodes, keep=(),
        interactions=(
            Interactions(metric="mse", nodes=names, values=packed(errors @ errors.T)),
        ),
    )  # fmt: skip


def drawn(nodes: int, outputs: int, seed: int = 0) -> Errors:
    return np.random.default_rng(seed).standard_normal((nodes, outputs))


def order(units: list[Unit]) -> list[str]:
    return [unit.members[0] for unit in units]


@pytest.mark.parametrize("chosen", [(), (2,), (0, 3), (0, 1, 2, 3, 4)])
def test_the_damage_of_a_set_is_the_square_of_its_summed_errors(chosen: tuple[int, ...]) -> None:
    errors = drawn(5, 9)
    gram = Gram(report_of(errors).interactions[0])
    together = errors[list(chosen)].sum(0)
    found = gram.damage([f"n{index}" for index in chosen])
    assert found == pytest.approx(together @ together, rel=1e-5)  # kept as float32


def test_a_node_whose_error_undoes_anothers_comes_right_after_it() -> None:
    errors = np.array([[1.0, 0, 0], [0, 1.5, 0], [-3.0, 0, 0], [2.9, 0, 0.1]])
    # by what each does alone: n0, n1, n3, n2; n1 leaves n0's as it is, n2 undoes n3's
    assert order(units_of(report_of(errors), By.NODES)) == ["n0", "n1", "n2", "n3"]


@pytest.mark.parametrize("seed", range(8))
def test_each_node_in_the_order_adds_least_to_those_before_it_for_what_it_brings(seed: int) -> None:
    macs = tuple(int(n) for n in np.random.default_rng(seed).integers(1, 9, 7))
    report = report_of(drawn(7, 3, seed), macs)  # few outputs: errors meet
    gram, found = Gram(report.interactions[0]), order(units_of(report, By.MACS))
    matrix = np.array([[gram.between([(a,), (b,)])[0, 1] for b in found] for a in found])
    for at in range(len(found)):
        before = matrix[:at, :at].sum()
        added = {
            name: (matrix[np.ix_([*range(at), place], [*range(at), place])].sum() - before)
            / macs[int(name[1:])]
            for place, name in enumerate(found[at:], start=at)
        }
        assert added[found[at]] <= min(added.values()) + 1e-6


def test_no_set_is_predicted_to_do_less_than_nothing() -> None:
    values = packed(np.array([[1.0, -2.0], [-2.0, 1.0]]))
    gram = Gram(Interactions(metric="mse", nodes=("a", "b"), values=values))
    assert (gram.damage(["a"]), gram.damage(["a", "b"])) == (1.0, 0.0)


def test_what_a_unit_brings_counts_in_the_order() -> None:
    errors = np.diag([1.0, 1.5])
    assert order(units_of(report_of(errors, macs=(1, 100)), By.MACS)) == ["n1", "n0"]


def test_what_brings_nothing_comes_last_however_much_it_harms() -> None:
    report = report_of(np.diag([3e4, 2e4, 1.0, 5e4]), macs=(0, 0, 1, 0))
    assert order(units_of(report, By.MACS)) == ["n2", "n1", "n0", "n3"]


def test_without_correlation_the_order_is_that_of_single_errors() -> None:
    alone = [3.0, 1.0, 2.0, 0.5]
    assert order(units_of(report_of(np.diag(alone)), By.NODES)) == ["n3", "n1", "n2", "n0"]


def test_profiles_are_nested_and_predict_the_error_of_the_set() -> None:
    errors = drawn(20, 6)
    report = report_of(errors)
    profiles = cut_profiles(report, "s.json").profiles
    chosen = [set(profile.quantize) for profile in profiles]
    assert all(a < b for a, b in itertools.pairwise(chosen))
    for profile in profiles:
        together = sum(errors[int(name[1:])] for name in profile.quantize)
        assert profile.predicted is not None
        assert profile.predicted.interactions
        assert profile.predicted.mse == pytest.approx(float(together @ together), rel=1e-4)


def test_sets_chosen_by_what_nodes_do_together_err_less_than_those_chosen_one_by_one() -> None:
    gained = 0
    for seed in range(10):
        errors = drawn(20, 4, seed)
        report = report_of(errors)
        single = report.model_copy(update={"interactions": ()})
        halves = [cut_profiles(r, "s", {"X": 0.5}).profiles[0].quantize for r in (report, single)]
        ours, theirs = (sum(errors[int(n[1:])] for n in half) for half in halves)
        gained += float(ours @ ours) < float(theirs @ theirs)
    assert gained >= 9


def corrected(*measured: tuple[tuple[str, ...], float]) -> Interactions:
    """Return interactions of five nodes with nested sets that were measured."""
    found = report_of(drawn(5, 9)).interactions[0]
    sets = tuple(MeasuredSet(adds=adds, damage=damage) for adds, damage in measured)
    return found.model_copy(update={"measured": sets})


def test_sets_that_were_measured_are_predicted_as_measured_and_single_nodes_as_estimated() -> None:
    gram = Gram(corrected((("n3",), 99.0), (("n0", "n1"), 40.0), (("n2", "n4"), 30.0)))
    alone = Gram(corrected())
    assert gram.damage(["n0", "n1", "n3"]) == pytest.approx(40.0)
    assert gram.damage(["n0", "n1", "n2", "n3", "n4"]) == pytest.approx(30.0)
    for index in range(5):
        assert gram.damage([f"n{index}"]) == alone.damage([f"n{index}"])


def test_what_a_larger_set_shows_does_not_change_a_smaller_one() -> None:
    one = (("n3", "n1"), 25.0)
    grams = [Gram(corrected(one, *more)) for more in ((), ((("n0", "n2"), 90.0),))]
    first, second = (gram.damage(["n1", "n3"]) for gram in grams)
    assert first == second == pytest.approx(25.0)


def test_the_order_goes_by_estimates_alone() -> None:
    units = [[f"n{index}"] for index in range(5)]
    grams = [Gram(corrected()), Gram(corrected((("n0", "n1", "n2"), 500.0)))]
    first, second = (gram.order(units, [1.0] * 5) for gram in grams)
    assert first == second


def test_measured_sets_of_other_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="names other nodes"):
        Gram(corrected((("n1", "n9"), 1.0)))


def test_a_report_survives_being_written_and_read() -> None:
    report = report_of(drawn(4, 3))
    assert Sensitivity.model_validate_json(report.model_dump_json(by_alias=True)) == report


@pytest.mark.parametrize("values", ["", "!!!", "AAAAAA==", packed(np.full((4, 4), np.nan))])
def test_damaged_interactions_are_refused(values: str) -> None:
    report = report_of(drawn(4, 3))
    found = report.interactions[0].model_copy(update={"values": values})
    with pytest.raises(InputError, match="interactions"):
        cut_profiles(report.model_copy(update={"interactions": (found,)}), "s.json")

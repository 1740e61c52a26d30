"""The engine `auto`: exact scores where they are cheap, else estimates that are checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.auto import Checked, choose
from qgraph._sensitivity.engines.gradient.verifying import (
    AT_CUT,
    SPREAD,
    WORST,
    agreement,
    agreement_on,
    nodes_to_check,
)
from qgraph._sensitivity.engines.question_engine import Asked
from qgraph._sensitivity.engines.wavefront.plug import Wavefront
from qgraph._sensitivity.ranking.interactions import Gram
from qgraph._sensitivity.ranking.profiles import cut_profiles
from qgraph._sensitivity.report import Direction, Score, Sensitivity, Stability
from qgraph._sensitivity.scoring.journal import open_journal
from qgraph._sensitivity.scoring.loop import Scores, scoring_ends
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.score_table import read_answers
from qgraph._sensitivity.scoring.sums_table import SumsTable
from qgraph._sensitivity.scoring.work import Work

WIDTH, NODES = 16, 72


def stack(path: Path, gains: Sequence[float], steepness: float = 1.0) -> Path:
    """Write linears in a row, each beside a shortcut: h + gain * Tanh(steepness * h W)."""
    generator = np.random.default_rng(3)
    nodes, weights, last = [], [], "x"

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    for at, gain in enumerate(gains):
        drawn = generator.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
        made = [f"{name}{at}" for name in ("m", "s", "t", "g", "h")]
        reads = [
            (last, constant(f"w{at}", drawn)),
            (made[0], constant(f"k{at}", steepness)),
            (made[1],),
            (made[2], constant(f"c{at}", gain)),
            (made[3], last),
        ]
        kinds = ("MatMul", "Mul", "Tanh", "Mul", "Add")
        for kind, given, out in zip(kinds, reads, made, strict=True):
            nodes.append(helper.make_node(kind, given, [out], name=f"/{at}/{out}"))
        last = made[-1]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "stack",
        [value("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [value(last, TensorProto.FLOAT, ["batch", WIDTH])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def feeds_of(count: int = 16) -> list[Feed]:
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal((12, WIDTH)).astype(np.float32)} for _ in range(count)]


def gains(count: int = NODES) -> list[float]:
    """Return what linears weigh, over one and a half orders of magnitude, in no order."""
    found = np.geomspace(0.02, 0.3, count)
    return [float(gain) for gain in np.random.default_rng(5).permutation(found)]


def without_times(report: Sensitivity) -> dict[str, Any]:
    return report.model_dump(mode="json", exclude={"run", "created"}, exclude_none=True)


def test_a_model_of_few_nodes_gets_what_the_exact_engine_finds(siblings: Path, score: Any) -> None:
    found, exact = score(siblings, engine="auto"), score(siblings, engine="wavefront")
    assert found.run.engine == "wavefront"
    assert found.run.estimate is None
    assert without_times(found) == without_times(exact)


def work_on(path: Path, **asked: Any) -> Work:
    prepared = prepare(path)
    return Work(
        **{
            "prepared": prepared,
            "selection": select(prepared.model),
            "scored": Scored(prepared.outputs, logits=False),
            "scheme": Scheme(),
            "feeds": feeds_of(),
            **asked,
        }
    )


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "gradient"),
        ({"direction": Direction.LEAVE_ONE_OUT}, "wavefront"),  # differences of large numbers
        ({"direction": Direction.SOLO}, "wavefront"),  # half the forwards
        ({"metric": "cosine"}, "wavefront"),  # not estimated
        ({"feeds": feeds_of(4)}, "wavefront"),  # the set-up is for few samples
    ],
)
def test_scores_are_exact_where_estimates_save_little_or_say_nothing(
    tmp_path: Path, asked: dict[str, Any], name: str
) -> None:
    path = stack(tmp_path / "stack.onnx", gains())
    assert choose(work_on(path, **asked)).name == name


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, score: Any) -> tuple[Sensitivity, Sensitivity]:
    """Return what `auto` and the exact engine say of many linears in a row."""
    path = stack(tmp_path_factory.mktemp("auto") / "stack.onnx", gains())
    return score(path, engine="auto", feeds=feeds_of()), score(path, feeds=feeds_of())


def solo(report: Sensitivity) -> dict[str, Any]:
    return {node.name: node.solo for node in report.nodes}


def test_many_nodes_are_estimated_and_measured_where_it_matters(
    both: tuple[Sensitivity, Sensitivity],
) -> None:
    found, exact = both
    estimate = found.run.estimate
    assert found.run.engine == "gradient"
    assert estimate is not None and estimate.verified is not None
    assert set(estimate.measured.values()) == {WORST, SPREAD, AT_CUT}
    assert 8 <= estimate.verified.nodes <= NODES / 2
    assert estimate.verified.spearman > 0.9
    assert 0.8 < estimate.verified.ratio < 1.25
    same = {name for name, score in solo(found).items() if score == solo(exact)[name]}
    assert same == estimate.measured.keys()
    assert estimate.baseline_measured and found.baseline == exact.baseline
    assert estimate.spearman_left_out is not None
    assert set(estimate.measured_left_out) <= estimate.measured.keys()


def test_profiles_are_those_of_exact_scores_but_for_nodes_near_a_cut(
    both: tuple[Sensitivity, Sensitivity],
) -> None:
    found, exact = both
    place = {node.name: NODES - node.rank + 0.5 for node in exact.nodes}  # the harmless first
    pairs = zip(
        cut_profiles(found, "sensitivity.json").profiles,
        cut_profiles(exact, "sensitivity.json").profiles,
        strict=True,
    )
    for ours, theirs in pairs:
        away = set(ours.quantize) ^ set(theirs.quantize)
        far = {name: place[name] - len(theirs.quantize) for name in away}
        assert all(abs(distance) <= 0.05 * NODES for distance in far.values()), (ours.name, far)


def test_measured_scores_stand_on_the_diagonal_of_the_interactions(
    both: tuple[Sensitivity, Sensitivity],
) -> None:
    found, _ = both
    gram = Gram(found.interactions[0])
    for name, score in solo(found).items():
        assert gram.damage([name]) == pytest.approx(score.mse, rel=1e-4)


def test_where_layers_saturate_all_scores_are_measured(tmp_path: Path, score: Any) -> None:
    path, feeds = stack(tmp_path / "stack.onnx", gains(), steepness=300), feeds_of()
    with open_journal(tmp_path / "a.journal", {}) as journal:
        found = score(path, engine="auto", feeds=feeds, journal=journal)
        kept = [key for key in journal.entries if "sample" in key]
        again = score(path, engine="auto", feeds=feeds, journal=journal)
    assert found.run.engine == "wavefront"
    assert found.run.estimate is None
    assert any("estimates agree poorly" in text for text in found.run.warnings)
    assert sorted(kept) == sorted(f"{part}sample {n}" for part in ("", "exact/") for n in range(16))
    assert without_times(again) == without_times(found)
    assert solo(found) == solo(score(path, feeds=feeds))


def test_a_time_budget_leaves_time_to_check_the_estimates() -> None:
    now = time.monotonic()
    end = scoring_ends(now + 1000, Checked.scoring_share)
    assert end is not None and 590 < end - now < 610 + time.monotonic() - now
    assert scoring_ends(now + 1000, Wavefront.scoring_share) == pytest.approx(now + 1000)
    assert scoring_ends(None, Checked.scoring_share) is None


def test_estimates_that_nothing_was_checked_against_are_said_to_be(
    tmp_path: Path, score: Any
) -> None:
    path, seconds, begun = stack(tmp_path / "stack.onnx", gains()), 6, time.monotonic()

    def progress(description: str, done: int, total: int) -> None:
        if (
            description == "scoring" and done == total
        ):  # all are estimated: nothing is left for checks
            time.sleep(max(0.0, begun + 1.2 * seconds - time.monotonic()))

    runtime = Runtime(progress=progress)
    found = score(path, engine="auto", feeds=feeds_of(), seconds=seconds, runtime=runtime)
    assert found.run.engine == "gradient"
    assert found.run.estimate is not None and found.run.estimate.verified is None
    assert any("nothing says how good these estimates are" in t for t in found.run.warnings)


def test_estimates_are_checked_on_the_samples_that_there_is_time_for(tmp_path: Path) -> None:
    names = [f"n{at}" for at in range(6)]
    estimates = Scores(SumsTable(), complete=True, resumed=0)
    exact = Scores(SumsTable(), complete=False, resumed=0)
    for sample in range(4):
        row = [Sums(count=10, error=float(at * (sample + 1))) for at in range(1, 7)]
        # the fourth sample, where ranks are turned round, was not measured
        estimates.table.add(sample, row if sample < 3 else row[::-1])
        if sample < 3:
            exact.table.add(sample, [replace(item, error=2 * item.error) for item in row])
    questions = {("solo", name): frozenset({name}) for name in names}
    table = read_answers(list(questions), estimates.figures())
    asked = Asked(questions, estimates, table, tmp_path, {}, 1.0)
    found = agreement_on(asked, exact, names, "mse")
    assert found is not None
    assert (found.nodes, found.ratio) == (6, 0.5)
    assert found.spearman == pytest.approx(1)
    assert agreement_on(asked, Scores(SumsTable(), complete=False, resumed=0), names, "mse") is None


def test_nodes_that_neither_tells_apart_are_no_agreement() -> None:
    names = [f"n{at}" for at in range(12)]

    def of(*worst: int) -> dict[str, Score]:
        return {name: Score(mse=float(at in worst)) for at, name in enumerate(names)}

    found = agreement(of(0, 1), of(0, 2, 1), "mse")
    assert found is not None
    alike = [[float(at in worst) for at in range(12)] for worst in ((0, 1), (0, 2, 1))]
    assert found.spearman == pytest.approx(stats.spearmanr(*alike).statistic)
    flat = agreement({name: Score(mse=1.0) for name in names}, of(0, 1), "mse")
    assert flat is not None and flat.spearman == 0


def test_checking_takes_no_more_than_a_quarter_of_measuring_all() -> None:
    harms = {f"n{at}": float(at) for at in range(100)}
    noisy = Stability(rank_min=1, rank_max=100, standard_error=100.0)
    prices = {name: 1.0 + harm for name, harm in harms.items()}
    found = nodes_to_check(harms, dict.fromkeys(harms, noisy), dict.fromkeys(harms, 1.0), prices)
    spent = sum(prices[name] for name in found)
    assert 0.2 * sum(prices.values()) < spent <= 0.25 * sum(prices.values())
    assert found["n99"] == WORST


def test_nodes_at_a_cut_are_those_whose_damage_for_their_cost_is_near_it() -> None:
    names, generator = [f"n{at}" for at in range(200)], np.random.default_rng(0)
    costs = {name: float(generator.choice([1, 3, 9])) for name in names}
    harms = {name: costs[name] * 1.05**at for at, name in enumerate(names)}
    settled = {
        name: Stability(rank_min=1, rank_max=9, standard_error=0.03 * harms[name]) for name in names
    }
    found = nodes_to_check(harms, settled, costs, dict.fromkeys(names, 1.0))
    reached = np.cumsum(list(costs.values())) / sum(costs.values())
    cuts = [np.searchsorted(reached, share) for share in (0.15, 0.5, 0.8)]
    at_cut = [int(name[1:]) for name, why in found.items() if why == AT_CUT]
    assert at_cut and all(min(abs(at - cut) for cut in cuts) <= 3 for at in at_cut)


def test_checks_take_what_estimates_leave_of_a_quarter_of_exact_scores(
    both: tuple[Sensitivity, Sensitivity],
) -> None:
    found, _ = both
    estimate, nodes = found.run.estimate, len(found.nodes)
    assert estimate is not None
    taken = sum((nodes - int(name.split("/")[1])) / nodes for name in estimate.measured)
    assert 4 < taken <= 6  # so few nodes leave no more than the least


def test_checking_takes_no_more_than_there_is_time_for() -> None:
    harms = {f"n{at}": float(at) for at in range(100)}
    ones = dict.fromkeys(harms, 1.0)
    assert len(nodes_to_check(harms, {}, ones, ones, most=5)) == 5
    assert nodes_to_check(harms, {}, ones, ones, most=0.5) == {}


def test_where_no_gradient_comes_up_all_is_measured_and_nothing_is_doubted(tmp_path: Path) -> None:
    count, generator = 90, np.random.default_rng(0)
    rows = [f"h{at} = MatMul(t{at}, w{at}) t{at + 1} = Tanh(h{at})" for at in range(count)]
    text = f"(float[1,4,8] t0) => (float[1,4,8] y) {{ {' '.join(rows)} y = Sign(t{count}) }}"
    weights = drawn({f"w{at}": (8, 8) for at in range(count)}, generator)
    onnx.save(built(text, **weights), tmp_path / "net.onnx")
    feeds = [{"t0": generator.standard_normal((1, 4, 8)).astype(np.float32)} for _ in range(8)]
    report, _ = qgraph.sensitivity(tmp_path / "net.onnx", data=feeds, small=True, fast=True)
    assert report.run.engine == "gradient" and report.run.estimate is not None
    assert len(report.run.estimate.measured) == count
    assert not report.run.warnings

"""The engine `gradient`: its estimates are near the exact scores, and the same in any order."""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qgraph
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import UsageError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.companions import find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.gradient.answerer import GradientAnswerer
from qgraph._sensitivity.engines.gradient.pairs import shrunk
from qgraph._sensitivity.engines.gradient.parts import held_bytes, most_weights
from qgraph._sensitivity.engines.gradient.probes import draw_signs, signs_input
from qgraph._sensitivity.engines.gradient.verifying import nodes_to_measure
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.ranking.interactions import Gram
from qgraph._sensitivity.ranking.profiles import cut_profiles
from qgraph._sensitivity.report import Sensitivity, Stability
from qgraph._sensitivity.scoring.journal import folder_of, open_journal
from qgraph._sensitivity.scoring.loop import Limits
from qgraph._sensitivity.scoring.loop import score as score_samples
from qgraph._sensitivity.scoring.questions import Question, Scored

RUN = RangesRun(qgraph="0", provider="cpu", samples=2, data="x", synthetic=False)
CPU = Provider.CPU
DEEP = """
deep (float[batch, 8] x) => (float[batch, 6] y, float[batch, 16] h1)
{
  [/a/MatMul] h1 = MatMul(x, wa)
  t1 = Tanh(h1)
  [/b/MatMul] h2 = MatMul(t1, wb)
  h3 = Add(h2, h1)
  [/c/MatMul] h4 = MatMul(h3, wc)
  t4 = Tanh(h4)
  [/d/MatMul] y = MatMul(t4, wd)
}
"""


@pytest.fixture
def deep(build: Any) -> Path:
    """Four linears in a row, with a shortcut around the second."""
    path: Path = build(DEEP, {"wa": (8, 16), "wb": (16, 16), "wc": (16, 16), "wd": (16, 6)})
    return path


def feeds_for(path: Path, count: int, **sizes: int) -> list[Feed]:
    """Return `count` different samples; `sizes` of dimensions that have a name."""
    generator = np.random.default_rng(0)
    value = onnx.load(path).graph.input[0]
    dims = value.type.tensor_type.shape.dim
    shape = [dim.dim_value or sizes[dim.dim_param] for dim in dims]
    return [{value.name: generator.standard_normal(shape).astype(np.float32)} for _ in range(count)]


class Setting:
    """A model, and what both engines are asked about it."""

    def __init__(
        self,
        path: Path,
        feeds: Sequence[Feed],
        outputs: Sequence[str] = (),
        *,
        logits: bool = False,
    ) -> None:
        self.prepared: PreparedModel = prepare(path)
        model = self.prepared.model
        chosen = select(model).candidates
        beside = find_companions(model, chosen)
        self.nodes = [*chosen, *(item.node for item in beside)]
        self.feeds = feeds
        ranges = calibrate(self.prepared, self.nodes, feeds, Scheme(), RUN).by_name()
        self.quantization = fake_quantization(
            quantization_parameters(model, self.nodes, ranges, Scheme())
        )
        self.scored = Scored(tuple(outputs) or self.prepared.outputs, logits)

    @property
    def solo(self) -> list[Question]:
        return [frozenset({node.name}) for node in self.nodes]

    def gradient(
        self, folder: Path, left: int = 1 << 40, rounds: int | None = None, **options: Any
    ) -> Any:
        folder.mkdir(exist_ok=True)
        memory = Memory(left)
        return GradientAnswerer(
            self.prepared, self.nodes, self.quantization, self.scored, self.feeds, CPU,
            memory, folder, rounds, **options,
        )  # fmt: skip

    def exact(self) -> Any:
        return node_switches(self.prepared, self.nodes, self.quantization, self.scored)


def answers(
    answerer: Any, questions: Sequence[Question], feeds: Sequence[Feed]
) -> list[list[Sums]]:
    return list(answerer.sums(questions, feeds, lambda _share: None))


def totals(rows: Sequence[Sequence[Sums]]) -> list[Sums]:
    return [sum(column, Sums()) for column in zip(*rows, strict=True)]


def ratios(setting: Setting, folder: Path, figure: str, **options: Any) -> list[float]:
    """Return estimate ÷ exact for every node."""
    ours = totals(answers(setting.gradient(folder, **options), setting.solo, setting.feeds))
    theirs = totals(answers(setting.exact(), setting.solo, setting.feeds))
    return [getattr(a, figure) / getattr(b, figure) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("figure", ["error", "relative"])
def test_scores_of_linears_are_near_the_exact_ones(
    siblings: Path, tmp_path: Path, figure: str
) -> None:
    setting = Setting(siblings, feeds_for(siblings, 8, batch=64))
    found = ratios(setting, tmp_path / "g", figure)
    assert all(0.8 < ratio < 1.25 for ratio in found)


def test_scores_of_convolutions_and_of_the_shortcut_beside_them_are_near_the_exact_ones(
    cnn: Path, tmp_path: Path
) -> None:
    setting = Setting(cnn, feeds_for(cnn, 8, batch=8))
    assert len(setting.nodes) == 4  # the residual Add is one
    found = ratios(setting, tmp_path / "g", "error")
    assert all(0.8 < ratio < 1.25 for ratio in found)


def test_kl_is_near_the_exact_one(siblings: Path, tmp_path: Path) -> None:
    setting = Setting(siblings, feeds_for(siblings, 8, batch=64), logits=True)
    found = ratios(setting, tmp_path / "g", "kl")
    assert 0.7 < statistics.median(found) < 1.3


def test_few_outputs_probed_one_by_one_leave_nothing_to_chance(
    siblings: Path, tmp_path: Path
) -> None:
    """With as many probes as numbers are compared, only the second order is missing."""
    feeds = feeds_for(siblings, 3, batch=3)
    setting = Setting(siblings, feeds, logits=True)
    answerer = setting.gradient(tmp_path / "g")
    assert answerer.probes.one_by_one
    assert len(answerer.probes.passes) == 12  # KL follows from the same
    (last,) = (node for node in setting.nodes if node.name == "/mlp/down/MatMul")
    # behind the last linear nothing is curved: the estimate is the squared error itself
    ours = answers(answerer, [frozenset({last.name})], feeds)
    theirs = answers(setting.exact(), [frozenset({last.name})], feeds)
    for (a,), (b,) in zip(ours, theirs, strict=True):
        assert a.error == pytest.approx(b.error, rel=1e-3)
        assert a.relative == pytest.approx(b.relative, rel=1e-3)
        assert a.kl == pytest.approx(b.kl, rel=0.1)  # to second order


@pytest.mark.parametrize("outputs", [["y"], ["y", "h1"]])
def test_figures_of_numbers_probed_one_by_one_are_those_that_random_probes_give_on_average(
    deep: Path, tmp_path: Path, outputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = feeds_for(deep, 100, batch=1)
    setting = Setting(deep, feeds, outputs, logits=True)
    probes = "qgraph._sensitivity.engines.gradient.probes"
    monkeypatch.setattr(f"{probes}._ONE_BY_ONE", 64)
    alone = totals(answers(setting.gradient(tmp_path / "a"), setting.solo, feeds))
    count = 6 if outputs == ["y"] else 22
    drawn = totals(answers(setting.gradient(tmp_path / "b", rounds=count - 1), setting.solo, feeds))
    for a, b in zip(alone, drawn, strict=True):
        for figure in ("error", "relative", "kl"):
            assert getattr(a, figure) == pytest.approx(getattr(b, figure), rel=0.15)


def test_what_is_quantized_together_is_predicted_together(siblings: Path, tmp_path: Path) -> None:
    setting = Setting(siblings, feeds_for(siblings, 8, batch=64))
    names = [node.name for node in setting.nodes]
    sets = [frozenset(c) for size in (2, 3, 4) for c in itertools.combinations(names, size)]
    ours = totals(answers(setting.gradient(tmp_path / "g"), sets, setting.feeds))
    theirs = totals(answers(setting.exact(), sets, setting.feeds))
    apart = [abs(a.error / b.error - 1) for a, b in zip(ours, theirs, strict=True)]
    assert statistics.median(apart) < 0.1
    assert max(apart) < 0.25


def test_the_order_of_samples_changes_no_bit(siblings: Path, tmp_path: Path) -> None:
    feeds = feeds_for(siblings, 4, batch=3)
    setting = Setting(siblings, feeds)
    answerer = setting.gradient(tmp_path / "g")
    together = answers(answerer, setting.solo, feeds)
    alone = [answers(answerer, setting.solo, [feed])[0] for feed in reversed(feeds)]
    assert alone[::-1] == together


def test_samples_of_other_lengths_give_the_same_scores_in_any_order(
    build: Any, tmp_path: Path
) -> None:
    """The first sample's few outputs are not taken for all samples' outputs."""
    path = build(
        "few (float[1,s,16] x) => (float[1,s,1] y)"
        " { h = MatMul(x, u) r = Relu(h) y = MatMul(r, v) }",
        {"u": (16, 16), "v": (16, 1)},
    )
    short, long = feeds_for(path, 1, s=4)[0], feeds_for(path, 1, s=150)[0]
    found: list[Any] = []
    for order in ((short, long), (long, short)):
        setting = Setting(path, order)
        assert setting.nodes
        answerer = setting.gradient(tmp_path / str(len(found)))
        rows = {len(feed["x"][0]): answers(answerer, setting.solo, [feed])[0] for feed in order}
        found.append(rows)
    assert found[0] == found[1]


def test_another_process_draws_the_same_probes(siblings: Path, tmp_path: Path) -> None:
    setting = Setting(siblings, feeds_for(siblings, 2, batch=3))
    first, second = (
        answers(setting.gradient(tmp_path / name), setting.solo, setting.feeds) for name in "ab"
    )
    assert first == second


@pytest.mark.parametrize("logits", [False, True])
def test_part_by_part_the_scores_are_those_of_one_session(
    deep: Path,
    tmp_path: Path,
    logits: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qgraph._sensitivity.engines.gradient.parts._SMALLEST", 1)
    setting = Setting(deep, feeds_for(deep, 3, batch=5), ["y", "h1"], logits=logits)
    whole, parts = (setting.gradient(tmp_path / f"{left}", left) for left in (1 << 40, 0))
    assert not whole.in_parts and parts.in_parts
    ours, theirs = (totals(answers(each, setting.solo, setting.feeds)) for each in (parts, whole))
    for a, b in zip(ours, theirs, strict=True):
        assert a.error == pytest.approx(b.error, rel=1e-4)
        assert a.relative == pytest.approx(b.relative, rel=1e-4)
        assert a.kl == pytest.approx(b.kl, rel=1e-4)


def test_one_session_is_opened_where_weights_and_what_a_sample_makes_fit(siblings: Path) -> None:
    model = prepare(siblings).model
    nodes = select(model).candidates
    (short,), (long,) = (feeds_for(siblings, 1, batch=count) for count in (1, 100_000))
    # q, k, v, their product, its tanh and the sum: 16 floats each, and 4 of the output
    # once until their gradients are there, and errors beside
    few, many = (held_bytes(model, feed) for feed in (short, long))
    assert many == 2 * 100_000 * (6 * 16 + 4) * 4
    assert most_weights(model, nodes, few, 10_000_000) is None
    assert most_weights(model, nodes, many, 10_000_000) is not None
    assert most_weights(model, nodes, few, 0) is not None


def test_samples_side_by_side_have_the_scores_of_samples_alone(
    siblings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgraph._graph.run.workers.cores", lambda: 3)
    setting = Setting(siblings, feeds_for(siblings, 7, batch=5))
    alone, beside = (setting.gradient(tmp_path / f"{one}", alone=one) for one in (True, False))
    assert (alone.samples_at_once([]), beside.samples_at_once([])) == (1, 8)
    one_by_one = [answers(alone, setting.solo, [feed])[0] for feed in setting.feeds]
    assert answers(beside, setting.solo, setting.feeds) == one_by_one
    assert (alone.at_once, beside.at_once) == (1, 3)


def test_many_candidates_are_differentiated_a_few_at_a_time(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a session takes more than linear time in its nodes."""
    setting = Setting(deep, feeds_for(deep, 3, batch=5), ["y", "h1"])
    whole = setting.gradient(tmp_path / "whole")
    monkeypatch.setattr("qgraph._sensitivity.engines.gradient.parts._MANY", 1)
    parts = setting.gradient(tmp_path / "parts")
    assert parts.in_parts and not whole.in_parts
    ours, theirs = (totals(answers(each, setting.solo, setting.feeds)) for each in (parts, whole))
    for a, b in zip(ours, theirs, strict=True):
        assert a.error == pytest.approx(b.error, rel=1e-4)


def test_each_of_several_outputs_counts_the_same_in_noise_to_signal(
    deep: Path, tmp_path: Path
) -> None:
    """`h1` is hundreds of times as large as `y`, which by squared error alone would not count."""
    setting = Setting(deep, feeds_for(deep, 8, batch=32), ["y", "h1"])
    found = ratios(setting, tmp_path / "g", "relative")
    assert 0.8 < statistics.median(found) < 1.25


def report(score: Any, path: Path, feeds: Sequence[Feed], **given: Any) -> Sensitivity:
    found: Sensitivity = score(path, feeds=feeds, engine="gradient", **given)
    return found


def test_the_report_says_that_scores_are_estimates(siblings: Path, score: Any) -> None:
    found = report(score, siblings, feeds_for(siblings, 3, batch=32))
    assert found.run.engine == "gradient"
    assert found.run.estimate is not None
    assert (found.run.estimate.probes, found.run.estimate.by_position) == (1, True)
    assert found.run.estimate.measured == {}
    for node in found.nodes:
        assert node.solo is not None and node.solo.mse > 0
        assert node.solo.cosine is None
        assert node.leave_one_out is not None and node.leave_one_out.gain is not None
        assert node.stability is not None and node.stability.standard_error is not None


def test_interactions_hold_the_single_scores_and_those_of_groups(
    siblings: Path, score: Any
) -> None:
    found = report(score, siblings, feeds_for(siblings, 3, batch=16))
    gram = Gram(found.interactions[0].model_copy(update={"measured": ()}))
    for node in found.nodes:
        assert node.solo is not None
        assert gram.damage([node.name]) == pytest.approx(node.solo.mse, rel=1e-4)
    # what two do together is made smaller by the share that chance has in it
    alone = {node.name: node.solo.mse for node in found.nodes if node.solo}
    (group,) = found.groups
    assert group.solo is not None
    summed = sum(alone[name] for name in group.members)
    low, high = sorted((summed, group.solo.mse))
    assert 0.999 * low < gram.damage(group.members) < 1.001 * high


def test_sets_at_the_shares_of_profiles_are_measured_and_predicted_so(
    deep: Path, score: Any
) -> None:
    feeds = feeds_for(deep, 6, batch=30)
    found, exact = report(score, deep, feeds), score(deep, feeds=feeds)
    (together,) = found.interactions
    sizes = [len(item.adds) for item in together.measured]
    assert sizes == [1, 1, 1, 1]  # behind 0.6, 2, 3.2 and 4 of four
    alone = {node.name: node.solo for node in exact.nodes}
    first, last = together.measured[0], together.measured[-1]
    assert first.damage == pytest.approx(alone[first.adds[0]].mse, rel=1e-4)
    everything = exact.baseline.all_quantized.mse
    assert last.damage == pytest.approx(everything, rel=1e-4)
    assert Gram(together).damage(together.nodes) == pytest.approx(everything, rel=1e-4)
    (most,) = (p for p in cut_profiles(found, "s.json").profiles if p.name == "D")
    assert most.predicted is not None
    assert most.predicted.mse == pytest.approx(everything, rel=1e-4)


def test_a_set_is_measured_in_the_middle_of_a_step_in_which_damage_leaps(
    build: Any, score: Any
) -> None:
    """Ten linears side by side, two of which do ten thousand times what the others do."""
    products = " ".join(f"[n{i}] m{i} = MatMul(x, w{i})" for i in range(10))
    added = " ".join(f"s{i} = Add({'m0' if i == 1 else f's{i - 1}'}, m{i})" for i in range(1, 8))
    path = build(
        "leap (float[batch, 8] x) => (float[batch, 80] y) { k = Constant<value_float = 100.0>()"
        f" {products} {added} s8 = Add(m8, m9) big = Mul(s8, k) y = Add(s7, big) }}",
        {f"w{i}": (8, 80) for i in range(10)},
    )
    feeds = feeds_for(path, 4, batch=8)
    (found,) = report(score, path, feeds).interactions
    assert [len(item.adds) for item in found.measured] == [2, 3, 3, 1, 1]
    inside = [name for item in found.measured[:4] for name in item.adds]
    (truth,) = totals(answers(Setting(path, feeds).exact(), [frozenset(inside)], feeds))
    assert Gram(found).damage(inside) == pytest.approx(truth.error / truth.count, rel=1e-4)


def test_with_all_quantized_the_report_has_what_was_measured_and_gains_are_taken_from_it(
    deep: Path, score: Any
) -> None:
    feeds = feeds_for(deep, 6, batch=30)
    found, exact = report(score, deep, feeds), score(deep, feeds=feeds)
    assert found.run.estimate is not None and found.run.estimate.baseline_measured
    assert found.baseline == exact.baseline
    assert found.baseline is not None
    whole = found.baseline.all_quantized
    assert whole.sqnr_db is not None
    for node in found.nodes:
        left = node.leave_one_out
        assert left is not None and left.sqnr_db is not None
        assert left.gain == whole.mse - left.mse
        # all figures are of one error: their ratios to that of all nodes are alike
        assert 10 ** ((whole.sqnr_db - left.sqnr_db) / 10) == pytest.approx(left.mse / whole.mse)
    text = to_markdown(found)
    assert "Gains if left out are estimated, from the measured error of all" in text
    assert "they were not checked" in text


def test_where_memory_does_not_hold_the_model_all_nodes_are_measured_and_no_set_between(
    deep: Path, score: Any
) -> None:
    feeds = feeds_for(deep, 2, batch=30)
    found = report(score, deep, feeds, runtime=Runtime(CPU, memory_budget=1))
    exact = score(deep, feeds=feeds)
    assert found.run.memory is not None and found.run.memory.streamed
    assert found.run.estimate is not None and found.run.estimate.baseline_measured
    assert found.baseline is not None and exact.baseline is not None
    whole = exact.baseline.all_quantized
    assert found.baseline.all_quantized.mse == pytest.approx(whole.mse, rel=1e-6)
    (together,) = found.interactions
    (measured,) = together.measured
    assert set(measured.adds) == {node.name for node in found.nodes}
    assert measured.damage == pytest.approx(whole.mse, rel=1e-6)


def test_independent_errors_are_taken_to_add_up_and_common_ones_are_kept() -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((40, 500))
    independent, common = rows, rows[:1] + 0.1 * rows
    for errors, least, most in ((independent, 0.0, 0.2), (common, 0.9, 1.0)):
        gram, noise = errors @ errors.T, errors**2 @ (errors**2).T
        apart = ~np.eye(40, dtype=bool)
        kept = shrunk(gram, noise)
        assert (kept.diagonal() == gram.diagonal()).all()
        assert least <= (kept[apart] / gram[apart]).mean() <= most


CHAIN = " ".join(
    f"[/{i}/MatMul] m{i} = MatMul(h{i}, w{i}) h{i + 1} = Tanh(m{i})" for i in range(32)
)


def test_the_worst_of_many_nodes_are_measured_by_themselves(build: Any, score: Any) -> None:
    """Predictions of all sets that hold them start from there."""
    text = f"chain (float[batch, 8] h0) => (float[batch, 8] y) {{ {CHAIN} y = Identity(h32) }}"
    path = build(text, {f"w{i}": (8, 8) for i in range(32)})
    feeds = feeds_for(path, 3, batch=20)
    found, exact = report(score, path, feeds), score(path, feeds=feeds)
    assert found.run.estimate is not None
    assert found.run.estimate.verified is None
    ours, theirs = (
        {node.name: node.solo for node in each.nodes if node.solo} for each in (found, exact)
    )
    same = {name for name in ours if ours[name] == theirs[name]}
    assert same == found.run.estimate.measured.keys()
    assert len(same) == 2
    gram = Gram(found.interactions[0])
    for name in same:
        assert gram.damage([name]) == pytest.approx(theirs[name].mse, rel=1e-4)


def test_a_companion_is_part_of_the_interactions_of_its_convolution(cnn: Path, score: Any) -> None:
    found = report(score, cnn, feeds_for(cnn, 3, batch=4))
    gram = Gram(found.interactions[0])
    assert [item.beside for item in found.companions] == ["/block/Conv"]
    for node in found.nodes:
        assert node.solo is not None
        assert gram.damage([node.name]) == pytest.approx(node.solo.mse, rel=1e-4)


def test_a_run_that_was_killed_goes_on_to_the_same_report(
    siblings: Path, score: Any, tmp_path: Path
) -> None:
    feeds = feeds_for(siblings, 4, batch=16)
    with open_journal(tmp_path / "whole", {}) as journal:
        once = report(score, siblings, feeds, journal=journal)
        kept = {key: value for key, value in journal.entries.items() if key[-1] not in "13"}
    with open_journal(tmp_path / "half", {}) as journal:
        for key, value in kept.items():
            journal.record(key, value)
        shutil.copytree(folder_of(tmp_path / "whole"), journal.folder, dirs_exist_ok=True)
        for file in list(journal.folder.iterdir())[:2]:
            file.touch()
        again = report(score, siblings, feeds, journal=journal)
    assert again.nodes == once.nodes
    assert again.interactions == once.interactions


def test_of_samples_that_run_side_by_side_those_that_are_done_are_kept(
    siblings: Path, tmp_path: Path
) -> None:
    """What ends the work after four of eight loses those that are under way."""
    case = Setting(siblings, feeds_for(siblings, 8, batch=4))
    shares: list[float] = []

    class Ended(Exception):  # noqa: N818 - as a kill would
        pass

    def progress(description: str, done: int, total: int) -> None:
        shares.append(done / total)
        if shares[-1] > 3 / 8:
            raise Ended

    with open_journal(tmp_path / "journal", {}) as journal:
        answerer = case.gradient(tmp_path / "states")
        assert answerer.samples_at_once(case.solo) in (1, 8)
        with pytest.raises(Ended):
            score_samples(answerer, case.solo, case.feeds, Limits(journal=journal), progress)
        assert sorted(journal.entries) == [f"sample {number}" for number in range(4)]


def test_without_what_an_earlier_run_kept_of_pairs_there_are_scores_all_the_same(
    siblings: Path, score: Any, tmp_path: Path
) -> None:
    feeds = feeds_for(siblings, 3, batch=16)
    with open_journal(tmp_path / "journal", {}) as journal:
        once = report(score, siblings, feeds, journal=journal)
        shutil.rmtree(journal.folder)
        again = report(score, siblings, feeds, journal=journal)
    assert [node.solo for node in again.nodes] == [node.solo for node in once.nodes]
    assert again.interactions == ()
    assert again.run.estimate is not None and not again.run.estimate.baseline_measured
    assert "(estimated)" in to_markdown(again)


def test_nodes_that_are_measured_to_verify_have_their_exact_scores(
    siblings: Path, score: Any
) -> None:
    feeds = feeds_for(siblings, 4, batch=16)
    found = report(score, siblings, feeds, verify=2)
    exact = score(siblings, feeds=feeds)
    estimate = found.run.estimate
    assert estimate is not None and 1 <= len(estimate.measured) <= 2
    worst = max(found.nodes, key=lambda node: node.solo.mse if node.solo else 0.0).name
    assert estimate.measured[worst] == "one of the worst"
    theirs = {node.name: node.solo for node in exact.nodes}
    for node in found.nodes:
        if node.name in estimate.measured:
            assert node.solo == theirs[node.name]
        else:
            assert node.solo != theirs[node.name]


def test_a_report_says_how_estimates_stand_to_what_was_measured(deep: Path, score: Any) -> None:
    found = report(score, deep, feeds_for(deep, 6, batch=30), verify=4)
    assert found.run.estimate is not None
    verified = found.run.estimate.verified
    assert verified is not None and verified.nodes >= 2
    assert verified.spearman > 0.9
    assert 0.7 < verified.ratio < 1.4


def test_gains_of_nodes_measured_to_verify_are_exact_and_the_rest_held_against_them(
    deep: Path, score: Any
) -> None:
    feeds = feeds_for(deep, 6, batch=30)
    found, exact = report(score, deep, feeds, verify=4), score(deep, feeds=feeds)
    estimate = found.run.estimate
    assert estimate is not None and estimate.spearman_left_out is not None
    assert set(estimate.measured_left_out) == estimate.measured.keys()
    theirs = {node.name: node.leave_one_out for node in exact.nodes}
    for node in found.nodes:
        measured = node.name in estimate.measured_left_out
        assert (node.leave_one_out == theirs[node.name]) is measured
    assert f"ranks correlate by {estimate.spearman_left_out:.2f}." in to_markdown(found)


@pytest.mark.parametrize(
    ("errors", "count", "expected"),
    [
        ((0.0,) * 10, 2, ["n9"]),  # nothing is unsettled
        ((0.3,) * 10, 4, ["n9", "n8", "n1", "n5"]),  # cuts behind 1, 5 and 8 of ten
    ],
)
def test_measured_are_the_worst_and_those_near_a_cut(
    errors: Sequence[float], count: int, expected: Sequence[str]
) -> None:
    harms = {f"n{index}": 2.0**index for index in range(10)}
    stability = {
        name: Stability(rank_min=1, rank_max=10, standard_error=error * harms[name])
        for name, error in zip(harms, errors, strict=True)
    }
    found = nodes_to_measure(harms, stability, count)
    assert sorted(found) == sorted(expected)


STEEP = """
steep (float[batch, 8] x) => (float[batch, 6] y)
{
  [/a/MatMul] h = MatMul(x, wa)
  z = Sub(h, h)
  s = Sqrt(z)
  r = Add(s, h)
  [/b/MatMul] y = MatMul(r, wb)
}
"""


def test_a_node_whose_gradient_is_no_number_is_scored_exactly(build: Any, score: Any) -> None:
    path = build(STEEP, {"wa": (8, 12), "wb": (12, 6)})
    feeds = feeds_for(path, 3, batch=20)
    found, exact = report(score, path, feeds), score(path, feeds=feeds)
    assert found.unscored == ()
    assert found.run.estimate is not None
    assert found.run.estimate.measured == {"/a/MatMul": "its gradient is no number"}
    ours, theirs = ({n.name: n.solo for n in each.nodes} for each in (found, exact))
    assert ours["/a/MatMul"] == theirs["/a/MatMul"]
    assert ours["/b/MatMul"] != theirs["/b/MatMul"]
    assert found.baseline == exact.baseline


@pytest.mark.parametrize("verify", [None, 2])
def test_gains_measured_for_want_of_a_gradient_are_said_to_be(
    build: Any, score: Any, verify: int | None
) -> None:
    path = build(STEEP, {"wa": (8, 12), "wb": (12, 6)})
    feeds = feeds_for(path, 3, batch=20)
    found = report(score, path, feeds, **({} if verify is None else {"verify": verify}))
    exact = {node.name: node.leave_one_out for node in score(path, feeds=feeds).nodes}
    estimate = found.run.estimate
    assert estimate is not None and "/b/MatMul" in estimate.measured_left_out
    for node in found.nodes:
        measured = node.name in estimate.measured_left_out
        if measured:  # in batches of its own: processors differ in a float's last digit
            ours, theirs = node.leave_one_out, exact[node.name]
            assert ours is not None and theirs is not None
            given = theirs.model_dump(exclude_none=True)
            assert ours.model_dump(exclude_none=True) == pytest.approx(given, rel=1e-9)
    said = "Gains if left out are measured." in to_markdown(found)
    assert said is (len(estimate.measured_left_out) == len(found.nodes))
    assert estimate.spearman_left_out is None  # of fewer than two estimates


CONSTANT = """
constant (float[batch, 8] x) => (float[batch, 6] y, float[3] c, float[batch, 8] z)
{
  [/a/MatMul] h = MatMul(x, wa)
  y = Tanh(h)
  c = Identity(k)
  z = Identity(x)
}
"""


def test_outputs_that_no_candidate_moves_count_as_equal(build: Any, score: Any) -> None:
    path = build(CONSTANT, {"wa": (8, 6), "k": (3,)})
    feeds = feeds_for(path, 3, batch=20)
    found, exact = report(score, path, feeds), score(path, feeds=feeds)
    (ours,), (theirs,) = (
        [node.solo.mse for node in each.nodes if node.solo] for each in (found, exact)
    )
    assert 0.7 < ours / theirs < 1.4


def test_a_metric_without_an_estimate_is_refused(siblings: Path) -> None:
    with pytest.raises(UsageError, match="not estimated"):
        qgraph.sensitivity(siblings, engine="gradient", metric="cosine")


STEPS = """
steps (float[batch, 8] x) => (float[batch, 6] y)
{
  [/a/MatMul] h1 = MatMul(x, wa)
  [/round] r = %s
  [/b/MatMul] h2 = MatMul(r, wb)
  t = Tanh(h2)
  [/c/MatMul] y = MatMul(t, wc)
}
"""


@pytest.mark.parametrize(
    ("operator", "why"),
    [
        ("Round(h1)", "moves in steps"),
        ("Hardmax(h1)", "moves in steps"),
        ("Tan(h1)", "Tan"),
    ],
)
def test_above_an_operator_without_a_gradient_scores_are_exact_and_the_report_says_why(
    build: Any, score: Any, operator: str, why: str
) -> None:
    path = build(STEPS % operator, {"wa": (8, 16), "wb": (16, 16), "wc": (16, 6)})
    feeds = feeds_for(path, 4, batch=16)
    found = report(score, path, feeds)
    exact = score(path, feeds=feeds)
    assert found.run.estimate is not None
    assert list(found.run.estimate.measured) == ["/a/MatMul"]
    assert why in found.run.estimate.measured["/a/MatMul"]
    ours, theirs = (
        {node.name: node.solo.mse for node in each.nodes if node.solo} for each in (found, exact)
    )
    assert ours["/a/MatMul"] == pytest.approx(theirs["/a/MatMul"], rel=1e-5)
    for name in ("/b/MatMul", "/c/MatMul"):
        assert 0.5 < ours[name] / theirs[name] < 2
    gram = Gram(found.interactions[0])
    assert gram.damage(["/a/MatMul"]) == pytest.approx(ours["/a/MatMul"], rel=1e-5)


@pytest.mark.parametrize("left", [0, 1 << 40])
def test_products_are_those_of_torch(
    deep: Path, tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are Σ ⟨g, δ⟩², g by torch.autograd from the same signs, δ by torch, too."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("qgraph._sensitivity.engines.gradient.parts._SMALLEST", 1)
    (feed,) = feeds = feeds_for(deep, 1, batch=20)
    setting = Setting(deep, feeds, ["y"])
    answerer = setting.gradient(tmp_path / "g", left)
    ours = answers(answerer, setting.solo, feeds)[0]
    weights = {
        item.name: torch.tensor(onnx.numpy_helper.to_array(item))
        for item in onnx.load(deep).graph.initializer
    }
    drawn = draw_signs(answerer.probes, setting.scored, feed)[signs_input("y", 0)]
    signs = torch.tensor(drawn[: 20 * 6].reshape(20, 6))

    def step(node: str, x: Any) -> tuple[Any, Any]:
        """Return a linear's output, a leaf of the tape, and its error."""
        weight = weights[f"w{node}"]
        quantized = torch.tensor(setting.quantization.weights[f"w{node}", 1])
        scale = float(setting.quantization.scales[read[node]])
        rounded = (x / scale).round().clamp(-128, 127) * scale
        made = x @ weight
        made.retain_grad()
        return made, (rounded @ quantized - made).detach()

    read = {"a": "x", "b": "t1", "c": "h3", "d": "t4"}
    x = torch.tensor(feed["x"]).requires_grad_()
    h1, error_a = step("a", x)
    h2, error_b = step("b", torch.tanh(h1))
    h4, error_c = step("c", h2 + h1)
    y, error_d = step("d", torch.tanh(h4))
    (y * signs).sum().backward()
    errors = [(h1, error_a), (h2, error_b), (h4, error_c), (y, error_d)]
    for (made, error), found in zip(errors, ours, strict=True):
        product = (made.grad * error).sum(-1)
        assert found.error == pytest.approx(float((product**2).sum()), rel=1e-3)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    first, second = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


@pytest.mark.slow
def test_the_detector_that_ships_is_ranked_as_by_the_exact_engine() -> None:
    folder = Path(__file__).parents[3] / "models/yolo_tiny"
    data = [folder / "data/calibration.json"]
    found, exact = (
        qgraph.sensitivity(
            folder / "model.onnx", data=data, samples=16, engine=engine, direction="solo", fast=True
        )[0]
        for engine in ("gradient", "wavefront")
    )
    assert found.run.estimate is not None and 2 <= len(found.run.estimate.measured) <= 4
    for metric in ("mse", "noise_to_signal"):
        ours, theirs = (
            [node.solo.figures[metric] or 0.0 for node in each.nodes if node.solo]
            for each in (found, exact)
        )
        assert spearman(ours, theirs) > 0.98
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True) if b)
        assert 0.85 < ratio < 1.15

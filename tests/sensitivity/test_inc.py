"""The engine `inc`, and the scheme inc-cpu of our own engine held against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import (
    EnvironmentFault,
    InputError,
    InterruptedRun,
    LimitError,
    UsageError,
)
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.inc import Inc
from qgraph._sensitivity.engines.inc_plan import IncOptions
from qgraph._sensitivity.engines.switch import Switch
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.measure import measure
from qgraph._sensitivity.report import Direction, Sensitivity
from qgraph._sensitivity.scoring.journal import Journal, open_journal
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.scoring.work import EngineOptions, Work

Build = Callable[[str, Mapping[str, Sequence[int]]], Path]
ODD = """
odd (float[batch, 8] x, float[batch, 3, 8] k) => (float[batch, 9] y, float[batch, 3] z)
<int64[1] one = {1}>
{
  [first_quant] h = MatMul(x, w1)
  t = Tanh(h)
  t3 = Unsqueeze(t, one)
  kt = Transpose<perm = [0, 2, 1]>(k)
  [product] p = MatMul(t3, kt)
  z = Squeeze(p, one)
  [up] u = ConvTranspose<kernel_shape = [2]>(t3, wt)
  y = Squeeze(u, one)
}
"""


def work_of(path: Path, include: Sequence[str] = (), **options: object) -> Work:
    prepared = prepare(path)
    generator = np.random.default_rng(0)
    shapes = {
        spec.name: [size if isinstance(size, int) else 2 for size in spec.shape]
        for spec in prepared.inputs
    }
    feeds = [
        {name: generator.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
        for _ in range(3)
    ]
    return Work(
        prepared=prepared,
        selection=select(prepared.model, include=include),
        feeds=feeds,
        scored=Scored(prepared.outputs[:1], logits=False),
        scheme=Scheme(name=SchemeName.INC_CPU),
        options=IncOptions.model_validate(options),
    )


def with_options(work: Work, **options: object) -> Work:
    return replace(work, options=IncOptions.model_validate(options))


def ask(
    work: Work,
    path: Path,
    progress: Progress = silent,
    keep: Callable[[Sensitivity], None] | None = None,
) -> Sensitivity:
    engine, runtime = Inc(), Runtime(progress=progress)
    with open_journal(path, engine.identity(work, runtime)) as journal:
        return measure(work, engine, runtime, journal, keep)


def ours(work: Work) -> Sensitivity:
    candidates = work.selection.candidates
    run = RangesRun(qgraph="0", provider="cpu", samples=3, data="x", synthetic=False)
    ranges = calibrate(work.prepared, candidates, work.feeds, work.scheme, run)
    return measure(replace(work, ranges=ranges, options=EngineOptions()), Switch(), Runtime())


def content(report: Sensitivity) -> dict[str, object]:
    return report.model_dump(mode="json", exclude={"run"})


@pytest.fixture
def siblings_work(siblings: Path) -> Work:
    return work_of(siblings)


def test_every_candidate_is_scored_in_both_directions_twice_the_same(
    siblings_work: Work, tmp_path: Path
) -> None:
    first = ask(siblings_work, tmp_path / "1")
    second = ask(siblings_work, tmp_path / "2")
    assert content(first) == content(second)
    assert [n.name for n in first.nodes] == [n.name for n in siblings_work.selection.candidates]
    for node in first.nodes:
        assert node.solo and node.solo.inc and node.solo.mse > 0
        assert node.leave_one_out and node.leave_one_out.inc
        assert first.baseline
        total = first.baseline.all_quantized
        assert node.leave_one_out.gain == total.mse - node.leave_one_out.mse
        # one output: INC's mean over outputs is ours, but for the order of summation
        assert node.solo.inc.mse == pytest.approx(node.solo.mse, rel=1e-5)
    assert sorted(node.rank for node in first.nodes) == list(range(1, len(first.nodes) + 1))
    assert first.run.complete
    assert first.run.engine == "inc"
    assert first.inc and first.inc.version and "uint8 asym" in first.inc.activations
    text = to_markdown(first)
    assert "INC solo" in text
    assert f"Intel Neural Compressor {first.inc.version}" in text


def test_incs_tensorrt_scheme_is_int8_symmetric_and_scores_otherwise(
    siblings_work: Work, tmp_path: Path
) -> None:
    report = ask(replace(siblings_work, scheme=Scheme()), tmp_path / "1")
    assert report.inc and "int8 sym" in report.inc.activations
    assert report.scheme.name is SchemeName.INT8
    assert all(node.solo and node.solo.mse > 0 for node in report.nodes)


@pytest.mark.parametrize("kind", ["siblings", "cnn"])
def test_our_engine_in_incs_scheme_gives_incs_scores(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    work = work_of(request.getfixturevalue(kind))
    theirs, mine = ask(work, tmp_path / "1"), ours(work)
    for a, b in zip(theirs.nodes, mine.nodes, strict=True):
        assert a.solo and b.solo and a.leave_one_out and b.leave_one_out
        # the same kernels on the same integers; float parts may differ in the last place, which
        # moves a value across a rounding boundary now and then
        assert b.solo.mse == pytest.approx(a.solo.mse, rel=1e-2)
        assert b.leave_one_out.mse == pytest.approx(a.leave_one_out.mse, rel=1e-2)


def test_what_inc_leaves_float_is_listed_with_the_reason_and_not_scored_as_0(
    build: Build, tmp_path: Path
) -> None:
    path = build(ODD, {"w1": (8, 8), "wt": (1, 1, 2)})
    report = ask(work_of(path, include=["."]), tmp_path / "1")
    assert [node.name for node in report.nodes] == ["first_quant"]
    reasons = {node.name: node.reason for node in report.unscored}
    assert "does not quantize a ConvTranspose" in reasons["up"]
    assert "float" in reasons["product"]
    assert "| `product` |" in to_markdown(report)


def test_max_nodes_scores_the_first_and_lists_the_others(
    siblings_work: Work, tmp_path: Path
) -> None:
    report = ask(with_options(siblings_work, max_nodes=1), tmp_path / "1")
    names = [node.name for node in siblings_work.selection.candidates]
    assert [node.name for node in report.nodes] == names[:1]
    assert [node.name for node in report.unscored] == names[1:]
    assert not report.run.complete


def test_fewer_confidence_batches_score_fewer_samples_and_calibrate_on_all(
    siblings_work: Work, tmp_path: Path
) -> None:
    solo = replace(siblings_work, direction=Direction.SOLO)
    report = ask(with_options(solo, confidence_batches=1), tmp_path / "1")
    assert report.inc
    assert (report.inc.confidence_batches, report.inc.calibration_samples) == (1, 3)
    assert report.nodes[0].leave_one_out is None
    alone = ask(replace(solo, feeds=solo.feeds[:1]), tmp_path / "2")
    assert report.nodes[0].solo != alone.nodes[0].solo


def test_an_interrupted_run_hands_over_what_it_has_and_the_next_repeats_nothing(
    siblings_work: Work, tmp_path: Path
) -> None:
    kept: list[Sensitivity] = []

    def interrupt(description: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        ask(siblings_work, tmp_path / "1", progress=interrupt, keep=kept.append)
    assert [report.run.complete for report in kept] == [False]
    assert {node.reason for node in kept[0].unscored} == {"the run was cut short before it"}
    seen: list[int] = []
    resumed = ask(siblings_work, tmp_path / "1", progress=lambda _, done, __: seen.append(done))
    assert seen == list(range(4, seen[-1] + 1))
    assert content(resumed) == content(ask(siblings_work, tmp_path / "2"))
    again: list[int] = []
    ask(siblings_work, tmp_path / "1", progress=lambda _, done, __: again.append(done))
    assert again == [seen[-1]]


def test_a_run_out_of_time_returns_what_is_there_or_says_that_nothing_is(
    siblings_work: Work, tmp_path: Path
) -> None:
    late = replace(siblings_work, deadline=0.0)
    with pytest.raises(LimitError, match="before the first score"):
        ask(late, tmp_path / "1")

    def interrupt(description: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRun):
        ask(replace(siblings_work, direction=Direction.SOLO), tmp_path / "1", progress=interrupt)
    report = ask(replace(late, direction=Direction.SOLO), tmp_path / "1")
    assert not report.run.complete
    assert (len(report.nodes), len(report.unscored)) == (1, 3)


def test_the_journal_of_other_data_is_refused(siblings_work: Work, tmp_path: Path) -> None:
    with open_journal(tmp_path / "1", Inc().identity(siblings_work, Runtime())) as journal:
        journal.record("first", {})
    other = replace(siblings_work, feeds=siblings_work.feeds[:2])
    with pytest.raises(UsageError, match="samples"):
        ask(other, tmp_path / "1")


def test_directions_and_max_nodes_share_a_journal(siblings_work: Work) -> None:
    same = Inc().identity(siblings_work, Runtime())
    assert Inc().identity(with_options(siblings_work, max_nodes=1), Runtime()) == same
    assert Inc().identity(replace(siblings_work, direction=Direction.SOLO), Runtime()) == same


def test_a_model_with_nothing_to_quantize_is_bad_input(build: Build, tmp_path: Path) -> None:
    path = build("none (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }", {})
    with pytest.raises(InputError, match="no node"):
        ask(work_of(path), tmp_path / "1")


def test_without_inc_nothing_is_begun(
    siblings_work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal: Journal = open_journal(tmp_path / "1", {})
    monkeypatch.setattr("qgraph._quantize.inc.version.version", lambda _: "3.8")
    with pytest.raises(EnvironmentFault, match=r"3\.8"):
        measure(siblings_work, Inc(), Runtime(), journal)
    journal.close()

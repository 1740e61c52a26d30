"""`qgraph compare`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def reports(qgraph: Command, mlp: Path, data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two rankings of one model: our scheme and INC's, both by our engine."""
    paths = (tmp_path / "clean.json", tmp_path / "as-inc.json")
    for path, scheme in zip(paths, ("int8", "inc-cpu"), strict=True):
        options = ("--engine", "switch", "--scheme", scheme, "--quiet", "-o", path)
        assert qgraph("sensitivity", "--fast", mlp, "--data", data, *options).code == 0
    return paths


def test_two_reports_are_compared_as_a_table_and_as_a_file(
    qgraph: Command, reports: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "comparison.json"
    result = qgraph("compare", *reports, "-o", output)
    assert result.code == 0, result.err
    assert "clean / as-inc" in result.out
    assert "scheme inc-cpu" in result.out
    found = json.loads(output.read_text())
    assert found["schema"] == "qgraph.comparison/1"
    assert found["pairs"][0]["common"] == 4
    assert qgraph("compare", *reports, "--json").json == found


def test_a_ranking_of_another_tool_takes_part_under_a_label(
    qgraph: Command, reports: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "autoquant.csv"
    other.write_text("node,sqnr\nq,10\nk,20\ndown,30\nout,40\n")
    arguments = ("compare", reports[0], f"tool={other}", "--lower-is-worse", "tool", "--json")
    pair = qgraph(*arguments).json["pairs"][0]
    assert (pair["a"], pair["b"], pair["common"]) == ("clean", "tool", 4)
    assert next(n for n in pair["nodes"] if n["name"] == "q")["rank_b"] == 1


def test_small_gains_can_count_as_one_tie(qgraph: Command, reports: tuple[Path, Path]) -> None:
    options = ("--score", "gain", "--tie-below", "10", "--json")
    found = qgraph("compare", *reports, *options).json
    assert len(found["tied"]) == 4
    assert "spearman" not in found["pairs"][0]


def test_the_plot_is_a_page_without_network_in_which_names_are_text(
    qgraph: Command, tmp_path: Path
) -> None:
    evil = {"</script><b>x": 1.0, "y": 2.0}
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        path.write_text(json.dumps(evil))
    page = tmp_path / "plot.html"
    assert qgraph("compare", *paths, "--plot", page).code == 0
    text = page.read_text()
    assert "<b>x" not in text
    assert 'src="http' not in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["one.json"], 2),
        (["one.json", "one.json"], 2),
        (["one.json", "none.json"], 3),
        (["one.json", "two.json", "--score", "nonsense"], 2),
        (["one.json", "two.json", "--lower-is-worse", "three"], 2),
        (["one.json", "two.json", "--tie-below", "0.1"], 2),
        (["one.json", "two.json", "-o", "one.json"], 2),
        (["one.json", "two.json"], 0),
    ],
)
def test_exit_codes(
    qgraph: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.json").write_text('{"a": 1, "b": 2}')
    assert qgraph("compare", *arguments, "--json").code == code


def test_two_evaluations_are_compared_and_a_gate_fails_with_7(files: Any, qgraph: Any) -> None:
    done = qgraph("compare", files.evaluation, files.folder, "--fail-if", "D:mse>1e-9")
    assert done.code == 7
    assert "D: mse" in done.err and "same" in done.out


def test_a_gate_that_holds_passes_and_json_is_one_value(files: Any, qgraph: Any) -> None:
    done = qgraph("compare", files.folder, files.folder, "--fail-if", "mse>+1%", "--json")
    assert done.code == 0
    assert {item["difference"] for item in done.json["changes"]} == {0}


def test_a_gate_that_fails_leaves_json_one_value_with_what_failed(files: Any, qgraph: Any) -> None:
    done = qgraph("compare", files.folder, files.folder, "--fail-if", "D:mse>1e-9", "--json")
    assert done.code == 7
    assert done.json["schema"] == "qgraph.changes/1" and done.json["failed"][0].startswith("D: mse")


def test_one_evaluation_is_gated_against_its_float_model(files: Any, qgraph: Any) -> None:
    passed = qgraph("compare", files.folder, "--fail-if", "D:sqnr<1")
    assert passed.code == 0 and "a distance from float" in passed.out
    assert "noise" not in passed.out  # that a distance from float is beyond noise is no news
    assert qgraph("compare", files.folder, "--fail-if", "D:sqnr<-1").code == 2
    done = qgraph("compare", files.evaluation, "--fail-if", "D:sqnr_db<999")
    assert done.code == 7 and "D: sqnr_db" in done.err


def test_a_baseline_that_is_missing_is_named(files: Any, qgraph: Any, tmp_path: Path) -> None:
    done = qgraph("compare", tmp_path / "gone.json", files.folder, "--fail-if", "mse>+1%")
    assert done.code == 3 and "gone.json" in done.err and "no such file" in done.err


def test_the_changes_go_into_a_pull_request(files: Any, qgraph: Any, tmp_path: Path) -> None:
    page = tmp_path / "changes.md"
    assert qgraph("compare", files.folder, files.folder, "-o", page).code == 0
    assert "| variant | metric | before | after |" in page.read_text()


def test_noise_fails_nothing_where_told_so(files: Any, qgraph: Any) -> None:
    gate = ("compare", files.folder, files.folder, "--fail-if", "mse>+1%", "--fail-when")
    # four samples are too few for an interval
    assert qgraph(*gate, "measured").code == 0
    result = qgraph(*gate, "sure")
    assert result.code == 2 and "has no interval: that needs its figures of 5 samples" in result.err


@pytest.mark.parametrize("pair", ["A", "A=", "A=E", "A=B"])
def test_a_pair_by_hand(files: Any, qgraph: Any, pair: str) -> None:
    result = qgraph("compare", files.folder, files.folder, "--pair", pair)
    if pair == "A=B":
        assert result.code == 0 and "A was compared with B: so --pair says." in result.out
    else:
        assert result.code == 2 and "--pair" in result.err


def test_a_gate_needs_evaluations(files: Any, qgraph: Any) -> None:
    done = qgraph("compare", files.sensitivity, files.sensitivity, "--fail-if", "mse>+1%")
    assert done.code == 2


def test_three_evaluations_are_one_too_many(files: Any, qgraph: Any) -> None:
    assert qgraph("compare", *3 * [files.evaluation]).code == 2


def test_two_runs_say_how_rankings_and_profiles_moved(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(files.folder, other)
    content = json.loads((other / "profiles.json").read_text())
    moved = content["profiles"][-1]["quantize"].pop()
    (other / "profiles.json").write_text(json.dumps(content))
    report = json.loads((other / "sensitivity.json").read_text())
    report["run"]["engine"] = "switch"
    nodes = sorted(report["nodes"], key=lambda node: node["rank"])
    nodes[0]["rank"], nodes[1]["rank"] = 2, 1
    (other / "sensitivity.json").write_text(json.dumps(report))
    found = qgraph("compare", files.folder, other, "--json").json
    assert [item["name"] for item in found["profiles"]] == ["D"]
    assert found["profiles"][0]["left"] == [moved]
    assert {"name": "engine", "before": "wavefront", "after": "switch"} in found["settings"]
    # of four nodes, two neighbours swapped: 1 − 6·2/(4·15)
    assert found["ranking"]["spearman"] == pytest.approx(0.8)
    assert "D not 1" in qgraph("compare", files.folder, other).out


def test_a_second_evaluation_that_is_missing_is_named_without_a_gate(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    done = qgraph("compare", files.evaluation, tmp_path / "gone.json")
    assert done.code == 3 and "gone.json" in done.err


def test_options_of_rankings_are_refused_for_evaluations(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    done = qgraph("compare", files.folder, files.folder, "--plot", tmp_path / "p.html")
    assert done.code == 2 and "for rankings" in done.err


def test_evaluates_own_gates_judge_what_was_measured(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    common = (files.model, files.folder / "D.onnx", "--data", files.data, "-o", tmp_path / "e.json")
    assert qgraph("evaluate", *common, "--quiet", "--fail-if", "D:sqnr_db<1").code == 0
    done = qgraph("evaluate", *common, "--quiet", "--fail-if", "D:sqnr_db<999")
    assert done.code == 7 and "Deploy D" in done.out


def test_an_evaluation_of_the_float_model_alone_says_that_nothing_is_compared(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.json"
    common = (files.model, "--data", files.data, "--quiet", "-o", alone)
    gated = qgraph("evaluate", *common, "--fail-if", "sqnr_db<30")
    assert gated.code == 2 and "Only the float model was given" in gated.err
    assert not alone.exists()  # found out before anything was measured
    assert qgraph("evaluate", *common).code == 0
    done = qgraph("compare", alone)
    assert done.code == 2 and "only the float model was measured" in done.err


def test_a_gate_that_no_figure_can_pass_is_refused_before_anything_is_measured(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    out = tmp_path / "e.json"
    common = (files.model, files.folder / "D.onnx", "--data", files.data, "--quiet", "-o", out)
    done = qgraph("evaluate", *common, "--fail-if", "mse>+1%")
    assert done.code == 2 and "no mse to take a share of" in done.err and not out.exists()

"""`qgraph profile --budget`, checked on emitted models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
BUDGET = "sqnr_db>=42"


@pytest.fixture(params=["none", "fused"])
def searched(request: pytest.FixtureRequest, qgraph: Command, mlp: Path, data: Path) -> Path:
    folder = mlp.parent
    report, profiles = folder / "sensitivity.json", folder / "profiles.json"
    how = ("--data", data, "--group", request.param)
    assert qgraph("sensitivity", "--fast", mlp, *how, "-o", report).code == 0
    options = ("--model", mlp, "--data", data, "--budget", BUDGET, "-o", profiles)
    result = qgraph("profile", report, *options)
    assert result.code == 0, result.err
    return profiles


def found(profiles: Path) -> dict[str, Any]:
    items = json.loads(profiles.read_text())["profiles"]
    return next(item for item in items if item["name"] == "budget")


def sqnr_of(qgraph: Command, mlp: Path, data: Path, profiles: Path, name: str) -> float:
    folder = profiles.parent
    ranges = folder / "ranges.json"
    arguments = ("--profiles", profiles, "--profile", name, "--ranges", ranges, "-o", folder)
    assert qgraph("quantize", mlp, *arguments).code == 0
    model, output = folder / f"{name}.onnx", folder / "e.json"
    result = qgraph("evaluate", mlp, model, "--data", data, "--json", "-o", output)
    metric: float = result.json["variants"][1]["metrics"]["sqnr_db"]
    return metric


def test_the_emitted_model_measures_what_the_search_did(
    qgraph: Command, mlp: Path, data: Path, searched: Path
) -> None:
    profile = found(searched)
    assert profile["budget"] == BUDGET and profile["quantize"]
    measured = sqnr_of(qgraph, mlp, data, searched, "budget")
    assert measured == pytest.approx(profile["measured"]["sqnr_db"], abs=1e-3)
    assert measured >= 42


def test_no_node_or_group_can_be_added(
    qgraph: Command, mlp: Path, data: Path, searched: Path
) -> None:
    document = json.loads(searched.read_text())
    profile = found(searched)
    report = json.loads(searched.with_name("sensitivity.json").read_text())
    groups = [group["members"] for group in report["groups"]]
    grouped = {name for group in groups for name in group}
    units = [*groups, *([n["name"]] for n in report["nodes"] if n["name"] not in grouped)]
    left = [unit for unit in units if not set(unit) <= set(profile["quantize"])]
    assert left
    document["profiles"] = [
        {"name": f"more{i}", "quantize": [*profile["quantize"], *unit]}
        for i, unit in enumerate(left)
    ]
    searched.write_text(json.dumps(document))
    for item in document["profiles"]:
        assert sqnr_of(qgraph, mlp, data, searched, item["name"]) < 42


def test_the_budget_is_met_whether_sets_are_predicted_or_scores_add_up(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    report, profiles = mlp.with_name("sensitivity.json"), mlp.with_name("profiles.json")
    asked = ("--data", data, "--engine", "gradient", "-o", report)
    assert qgraph("sensitivity", "--fast", mlp, *asked).code == 0
    said = json.loads(report.read_text())
    assert said.pop("interactions")
    for text in (report.read_text(), json.dumps(said)):
        report.write_text(text)
        options = ("--model", mlp, "--data", data, "--budget", BUDGET, "-o", profiles)
        result = qgraph("profile", report, *options)
        assert result.code == 0, result.err
        assert found(profiles)["quantize"]
        measured = sqnr_of(qgraph, mlp, data, profiles, "budget")
        assert measured == pytest.approx(found(profiles)["measured"]["sqnr_db"], abs=1e-3)
        assert measured >= 42


def test_every_profile_is_measured(searched: Path) -> None:
    items = json.loads(searched.read_text())["profiles"]
    assert all(item["measured"]["mse"] > 0 for item in items if item["quantize"])


def test_the_table_shows_what_the_budget_limits(
    qgraph: Command, mlp: Path, data: Path, searched: Path, tmp_path: Path
) -> None:
    report = searched.with_name("sensitivity.json")
    options = ("--model", mlp, "--data", data, "--budget", BUDGET, "-o", tmp_path / "profiles.json")
    table = qgraph("profile", report, *options).out
    assert "measured SQNR dB" in table and "cosine" not in table
    assert f"{found(searched)['measured']['sqnr_db']:.1f}" in table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "sqnr_db>=30"), "needs --model"),
        (("--budget", "loss<1"), "is no limit of a metric"),
        (("--budget", "map<=1x", "--model"), "no metric 'map'"),
    ],
)
def test_what_cannot_be_searched_is_said(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path,
    options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    report = tmp_path / "sensitivity.json"
    assert qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", report).code == 0
    extra: tuple[Any, ...] = (mlp, "--data", data) if options[-1] == "--model" else ()
    result = qgraph("profile", report, *options, *extra, "-o", tmp_path / "profiles.json")
    assert result.code == 2 and message in result.err
    assert "evaluating A" not in result.err  # said before the profiles are measured


def test_a_budget_that_leaves_nothing_to_quantize_says_so(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path
) -> None:
    report, profiles = tmp_path / "sensitivity.json", tmp_path / "profiles.json"
    assert qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", report).code == 0
    options = ("--model", mlp, "--data", data, "--budget", "sqnr_db>=200", "-o", profiles)
    result = qgraph("profile", report, *options)
    assert result.code == 0 and found(profiles)["quantize"] == []
    assert "not one node can be quantized within sqnr_db>=200" in " ".join(result.err.split())

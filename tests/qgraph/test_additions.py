"""A metric is added in one file, an option in two: the guide's examples, applied and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide/adding-a-metric-or-an-option.md").read_text(encoding="utf-8")
METRIC, *OPTION = re.findall(r"```diff\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the source with both examples applied."""
    if shutil.which("git") is None:
        pytest.skip("git applies the examples")
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for number, patch in enumerate((METRIC, *OPTION)):
        file = folder / f"{number}.diff"
        file.write_text(patch)
        # the lines around a change are found wherever they have moved to
        command = ["git", "apply", "--recount", file.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def run(copy: Path, *arguments: str | Path) -> Any:
    """Run the copy's `qgraph` and return what it prints, as JSON if it is."""
    done = subprocess.run(
        [sys.executable, "-m", "qgraph", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


def test_a_metric_is_one_file_and_an_option_two() -> None:
    files = [re.findall(r"^\+\+\+ b/(.*)", patch, re.MULTILINE) for patch in (METRIC, *OPTION)]
    assert files == [
        ["src/qgraph/_metrics/table.py"],
        ["src/qgraph/_steps/options.py"],
        ["src/qgraph/_steps/profile.py"],
    ]


def test_nodes_are_ranked_and_shown_by_the_added_metric(
    copy: Path, mlp: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sensitivity.json"
    common = ("--data", data, "--quiet", "-o", out)
    report = run(copy, "sensitivity", "--fast", mlp, "--metric", "nrmse", "--json", *common)
    assert report["metric"] == "nrmse"
    figures = [node["solo"] for node in sorted(report["nodes"], key=lambda node: node["rank"])]
    values = [item["nrmse"] for item in figures]
    assert values == sorted(values, reverse=True) and len(values) > 1
    # SQNR says the same in decibels
    assert values == pytest.approx([10 ** (-item["sqnr_db"] / 20) for item in figures])
    reason = run(copy, "profile", out, "--json", "-o", tmp_path / "p.json")["profiles"][0]["keep"]
    assert any("NRMSE" in item["reason"] for item in reason)


def test_the_added_option_is_a_flag_and_is_obeyed(
    copy: Path, mlp: Path, data: Path, tmp_path: Path
) -> None:
    assert "--spare" in run(copy, "profile", "--help")
    out = tmp_path / "sensitivity.json"
    report = run(copy, "sensitivity", "--fast", mlp, "--data", data, "--quiet", "--json", "-o", out)
    worst = next(node["name"] for node in report["nodes"] if node["rank"] == 1)
    found = run(copy, "profile", out, "--spare", "1", "--json", "-o", tmp_path / "p.json")
    everything = next(item for item in found["profiles"] if item["name"] == "D")
    assert worst not in everything["quantize"] and everything["quantize"]

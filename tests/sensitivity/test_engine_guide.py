"""The guide's example of an engine of one's own, as it stands in the guide."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs/guide/adding-an-engine.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "qgraph", "sensitivity", "--fast", *arguments],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_the_engine_of_the_guide_ranks_by_its_own_option(
    siblings: Path, tmp_path: Path, build: Callable[..., Path]
) -> None:
    (project,), (source,) = blocks("toml"), blocks("python")
    points = tomllib.loads(project)["project"]["entry-points"]["qgraph.engines"]
    info = tmp_path / "qgraph_scores-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qgraph-scores\nVersion: 0.1\n")
    lines = [f"{name} = {target}" for name, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[qgraph.engines]", *lines]) + "\n")
    (tmp_path / "qgraph_scores.py").write_text(source)
    assert "--file" in run(tmp_path, "--help").stdout
    scores = {"/attn/q/MatMul": 1.0, "/attn/k/MatMul": 3.0, "/attn/v/MatMul": 2.0}
    (tmp_path / "theirs.json").write_text(json.dumps(scores))
    common = (siblings.name, "--samples", "1", "--quiet", "--json")
    done = run(tmp_path, *common, "--engine", "scores", "--file", "theirs.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["run"]["engine"] == "scores"
    ranked = sorted(report["nodes"], key=lambda node: node["rank"])
    assert [node["name"] for node in ranked] == [
        "/attn/k/MatMul",
        "/attn/v/MatMul",
        "/attn/q/MatMul",
    ]
    assert report["unscored"] == [
        {"name": "/mlp/down/MatMul", "op_type": "MatMul", "reason": "not in the file", "macs": 0}
    ]
    refused = run(tmp_path, *common, "--file", "theirs.json")
    assert refused.returncode == 2
    assert "--file is an option of --engine scores" in json.loads(refused.stdout)["error"]

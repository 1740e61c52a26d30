"""`sensitivity --adaptive`: nodes far from every cut get fewer samples, and the report says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgraph._sensitivity.report import Direction
from qgraph._steps.api import profile, sensitivity

Command = Callable[..., Any]


@pytest.fixture
def many(make_data: Callable[..., Path], tmp_path: Path) -> Path:
    return make_data(tmp_path / "many.npz", samples=96)


def test_settled_nodes_have_fewer_samples_and_the_same_profiles(
    qgraph: Command, mlp: Path, many: Path, tmp_path: Path
) -> None:
    asked = ["sensitivity", mlp, "--data", many, "--samples", "96", "--direction", "solo"]
    done = qgraph(*asked, "--adaptive", "-o", tmp_path / "adaptive.json")
    assert done.code == 0
    assert "nodes were settled after" in done.out
    report = json.loads((tmp_path / "adaptive.json").read_text())
    few = [node["samples"] for node in report["nodes"] if "samples" in node]
    assert few and all(8 <= count < report["run"]["samples"] for count in few)
    assert qgraph(*asked, "-o", tmp_path / "full.json").code == 0
    profiles = [
        [item.quantize for item in profile(tmp_path / name).profiles]
        for name in ("adaptive.json", "full.json")
    ]
    assert profiles[0] == profiles[1]


def test_scores_of_settled_nodes_are_near_those_of_all_samples(mlp: Path, many: Path) -> None:
    reports = [
        sensitivity(mlp, data=[many], samples=96, adaptive=adaptive, direction=Direction.BOTH)[0]
        for adaptive in (False, True)
    ]
    for full, some in zip(reports[0].nodes, reports[1].nodes, strict=True):
        assert full.solo is not None and some.solo is not None
        assert some.solo.mse == pytest.approx(full.solo.mse, rel=0.5)
    assert any(node.samples is not None for node in reports[1].nodes)
    assert np.isfinite([node.solo.cosine for node in reports[1].nodes if node.solo]).all()


def test_incs_engine_does_not_take_it(qgraph: Command, mlp: Path, tmp_path: Path) -> None:
    done = qgraph("sensitivity", mlp, "--engine", "inc", "--adaptive", "-o", tmp_path / "s.json")
    assert done.code == 2
    assert "--adaptive" in done.err

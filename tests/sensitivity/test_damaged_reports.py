"""A report that says what cannot be is refused by name, before anything is cut from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.report import Sensitivity

Content = dict[str, Any]


def refusal(content: Content, kind: type[Sensitivity | Ranges], path: Path) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_document(path, kind)
    return str(caught.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: c["nodes"][0].update(macs=-1), "$.nodes[0].macs"),
        (lambda c: c["nodes"][0].update(params=-1), "$.nodes[0].params"),
        (lambda c: c["nodes"][0].update(rank=0), "$.nodes[0].rank"),
        (lambda c: c["nodes"][1]["solo"].update(mse=-1e-9), "$.nodes[1].solo.mse"),
        (lambda c: c["nodes"].append(c["nodes"][0]), "stands twice"),
        (lambda c: c.update(groups=[{"name": "g", "members": ["no node"]}]), "names 'no node'"),
        (lambda c: c["groups"][0].update(members=[]), "has no members"),
        (
            lambda c: c["groups"].append({**c["groups"][0], "name": "h"}),
            "'h' names '/attn/k/MatMul",
        ),
    ],
)
def test_a_report_that_cannot_be(
    siblings: Path,
    score: Callable[..., Sensitivity],
    tmp_path: Path,
    damage: Callable[[Content], None],
    said: str,
) -> None:
    report = score(siblings)
    content = json.loads(report.save(tmp_path / "s.json").read_text(encoding="utf-8"))
    assert read_document(tmp_path / "s.json", Sensitivity) == report
    damage(content)
    assert said in refusal(content, Sensitivity, tmp_path / "damaged.json")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([{"name": "x", "rmin": 1.0, "rmax": -1.0}], "rmin 1 is above rmax -1"),
        ([{"name": "x", "rmin": 0.0, "rmax": 1.0}] * 2, "'x' stands twice"),
    ],
)
def test_ranges_that_cannot_be(tmp_path: Path, tensors: list[Content], said: str) -> None:
    run = {"qgraph": "0", "provider": "cpu", "samples": 1, "data": "d", "synthetic": False}
    content = {
        "schema": Ranges.SCHEMA, "model": {"path": "m", "sha256": "0"}, "scheme": {"name": "int8"},
        "run": run, "tensors": tensors,
    }  # fmt: skip
    assert said in refusal(content, Ranges, tmp_path / "r.json")

"""What adding a metric or an option takes: done to a copy of the source, and used from outside.

An engine is added from another package (tests/sensitivity/test_engine_guide.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qgraph

METRIC = """_TABLE = (
    Metric(
        key="rms_ratio", label="RMS ratio", form="{:.2e}", from_float=True, by_parts=True,
        of=lambda sums: math.sqrt(sums.error / sums.signal) if sums.signal else None,
        of_damage=_itself,
    ),
"""
OPTION = """    cuts: dict[str, Share] = dict(DEFAULT_CUTS)
    smallest: Annotated[Count, Flag("Leave out profiles of fewer nodes.")] = 1
"""
LEFT_OUT = """asked.cuts, asked.by, asked.top_k)
    kept = tuple(item for item in cut.profiles if len(item.quantize) >= asked.smallest)
    cut = cut.model_copy(update={"profiles": kept})
"""


class Clone:
    """A copy of the package that is edited: `edited` are the files it took."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.edited: set[str] = set()
        source = Path(qgraph.__file__).parent
        shutil.copytree(source, folder / "src/qgraph", ignore=shutil.ignore_patterns("__pycache__"))

    def add(self, file: str, lines: str) -> None:
        """Put `lines` in the place of the first of them, which is there once."""
        path = self._folder / "src/qgraph" / file
        text, mark = path.read_text(encoding="utf-8"), lines.splitlines(keepends=True)[0]
        assert text.count(mark) == 1
        path.write_text(text.replace(mark, lines), encoding="utf-8")
        self.edited.add(file)

    def run(self, *arguments: str, expected: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(self._folder / "src")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stderr if expected else done.stdout

    def document(self, *arguments: str) -> Any:
        return json.loads(self.run("-m", "qgraph", *arguments, "--quiet", "--json"))


@pytest.fixture
def clone(tmp_path: Path, make_mlp: Callable[[Path], Path]) -> Clone:
    make_mlp(tmp_path).rename(tmp_path / "m.onnx")
    return Clone(tmp_path)


def test_a_metric_is_an_entry_in_one_file(clone: Clone) -> None:
    clone.add("_metrics/table.py", METRIC)
    chosen = ("--metric", "rms_ratio", "--samples", "2")
    report = clone.document("sensitivity", "m.onnx", *chosen, "-o", "s.json")
    assert report["metric"] == "rms_ratio"
    nodes = sorted(report["nodes"], key=lambda node: node["rank"])
    values = [node["solo"]["rms_ratio"] for node in nodes]
    assert values == sorted(values, reverse=True) and values[-1] > 0
    for node in nodes:  # of the same sums as the SQNR
        assert node["solo"]["rms_ratio"] == pytest.approx(10 ** (-node["solo"]["sqnr_db"] / 20))
    profiles = clone.document("profile", "s.json", "-o", "p.json")
    assert profiles["profiles"][0]["quantize"] == [nodes[-1]["name"]]
    assert "rms_ratio" in clone.run("-m", "qgraph", "sensitivity", "--help")
    assert clone.edited == {"_metrics/table.py"}


def test_an_option_is_a_field_and_what_it_does(clone: Clone, tmp_path: Path) -> None:
    clone.document("sensitivity", "m.onnx", "--samples", "1", "-o", "s.json")
    everything = clone.document("profile", "s.json", "-o", "all.json")["profiles"]
    most = max(len(item["quantize"]) for item in everything)
    clone.add("_steps/options.py", OPTION)
    clone.add("_steps/profile.py", LEFT_OUT)
    assert len(clone.edited) == 2
    found = clone.document("profile", "s.json", "--smallest", str(most), "-o", "p.json")
    assert found["profiles"] == [item for item in everything if len(item["quantize"]) == most]
    assert len(found["profiles"]) < len(everything)
    assert "Leave out profiles of fewer nodes." in clone.run("-m", "qgraph", "profile", "--help")
    (tmp_path / "recipe.toml").write_text('name = "x"\nmodel = "m.onnx"\n[profile]\nsmallest = 0\n')
    refused = clone.run("-m", "qgraph", "run", "recipe.toml", "--quiet", expected=2)
    assert "profile.smallest: Input should be greater than or equal to 1" in refused

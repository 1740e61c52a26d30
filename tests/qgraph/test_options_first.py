"""A wrong option is refused before anything is computed, loaded or written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

HEAVY = ("torch", "transformers", "ray", "neural_compressor", "vl_convert")

SENSITIVITY = [
    "--metric kl", "--metric foo", "--outputs foo", "--exclude zzz", "--include zzz",
    "--exclude (", "--samples 0", "--engine foo", "--engine switch --probes 3",
    "--engine gradient --metric cosine",
    "--engine gradient --verify -1", "--engine inc --scheme fp8", "--max-nodes 3",
    "--gauss-newton", "--percentile 99", "--calibrate minmax --percentile 99",
    "--engine inc --calibrate output", "--smooth 2", "--batch-axis z=0", "--batch-axis x",
    "--batch-axis x=7", "--preprocess mean=0.5", "--schemes int8",
    "--engine gradient --schemes int8,foo", "--engine gradient --schemes int8 --scheme fp8",
    "--engine inc --ranges {ranges}", "--ranges {sensitivity}", "--engine inc --ray local",
    "--time-budget 0s", "--memory-budget lots",
]  # fmt: skip
PROFILE = [
    "--budget foo", "--budget mse<=1", "--cut Z", "--cut Z=2", "--by foo", "--task fidelity",
    "--data {data}", "--samples 3", "--preprocess mean=1", "--model {model}",
    "--model {model} --data {data} --task zzz", "--model {model} --data {data} --task lm",
]  # fmt: skip
QUANTIZE = [
    "--profile Z", "--ranges {ranges}", "--backend inc --dtype fp16",
    "--backend inc --annotate {sensitivity}",
    "--annotate {profiles}", "--percentile 60", "--scheme inc-cpu", "--smooth 3",
    "--batch-axis z=0", "--preprocess mean=0.5", "--samples 0",
]  # fmt: skip
EVALUATE = [
    "--task zzz", "--task lm", "--task detect", "--accept foo", "--fail-if foo",
    "--fail-if Z:mse>1", "--fail-if mse>1%", "--sanity {data}", "--sanity {data} --no-sanity",
    "--profiles {sensitivity}", "--batch-axis x=5", "--preprocess mean=1", "--samples 0",
    "{model}",
]  # fmt: skip
HANDOFF = [
    "--axis z=1:2:3", "--axis batch=1:2", "--axis batch=3:2:1", "--batch-axis z=0",
    "--preprocess mean=1", "--source {folder}/C.onnx",
]  # fmt: skip
RECIPE = [
    'name = "no good"', "[foo]", "provider = 3", "[run]\nfoo = 1", '[scheme]\nname = "int9"',
    '[sensitivity]\nmetric = "foo"', '[sensitivity]\nmetric = "kl"',
    '[sensitivity]\nengine = "foo"', '[sensitivity]\noutputs = ["foo"]',
    '[sensitivity]\nexclude = ["zzz"]', '[sensitivity]\nbatch_axis = ["z=0"]',
    '[sensitivity]\npreprocess = "mean=0.5"', '[sensitivity]\nprobes = 0\nengine = "gradient"',
    '[profile]\nbudget = "foo"', '[profile]\nbudget = "mse<=1"', '[profile]\ntask = "zzz"',
    '[profile]\nbudget = "mse<=1"\ntask = "zzz"\n[sensitivity]\ndata = ["{data}"]',
    "[profile]\ncuts = {{model = 0.5}}", '[quantize]\nbackend = "inc"', '[export]\ndtype = "fp16"',
    '[evaluate]\ntask = "zzz"', '[evaluate]\naccept = ["foo"]',
    '[evaluate]\npreprocess = "mean=1"', '[evaluate]\nsanity = "{data}"',
]  # fmt: skip


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What onnxruntime was given to open."""
    opened: list[Any] = []

    class Recording(onnxruntime.InferenceSession):  # type: ignore[misc, unused-ignore]
        def __init__(self, model: Any, *arguments: Any, **options: Any) -> None:
            opened.append(model)
            super().__init__(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Recording)
    return opened


Refused = Callable[[list[str], str], None]


@pytest.fixture
def refused(files: Any, qgraph: Any, tmp_path: Path, sessions: list[Any]) -> Refused:
    """Run a command with wrong options, and check that it was refused at once."""

    def check(command: list[str], options: str) -> None:
        known = {
            name: getattr(files, name)
            for name in ("ranges", "sensitivity", "profiles", "model", "data", "folder")
        }
        before = set(sys.modules)
        said = qgraph(*command, *options.format(**known).split())
        assert said.code == 2, said.err
        assert "Error: " in said.err and "defect" not in said.err
        assert sessions == []
        assert not set(HEAVY) & (set(sys.modules) - before)
        assert [path.name for path in tmp_path.rglob("*")] == []

    return check


@pytest.mark.parametrize("options", SENSITIVITY)
def test_of_sensitivity(refused: Refused, files: Any, tmp_path: Path, options: str) -> None:
    data = [] if "--data" in options else ["--data", str(files.data)]
    refused(["sensitivity", str(files.model), *data, "-o", str(tmp_path / "s.json")], options)


@pytest.mark.parametrize("options", PROFILE)
def test_of_profile(refused: Refused, files: Any, tmp_path: Path, options: str) -> None:
    refused(["profile", str(files.sensitivity), "-o", str(tmp_path / "p.json")], options)


@pytest.mark.parametrize("options", QUANTIZE)
def test_of_quantize(refused: Refused, files: Any, tmp_path: Path, options: str) -> None:
    given = ["--profiles", str(files.profiles), "--data", str(files.data)]
    refused(["quantize", str(files.model), *given, "-o", str(tmp_path / "q")], options)


@pytest.mark.parametrize("options", EVALUATE)
def test_of_evaluate(refused: Refused, files: Any, tmp_path: Path, options: str) -> None:
    given = [str(files.model), str(files.folder / "D.onnx"), "--data", str(files.data)]
    refused(["evaluate", *given, "-o", str(tmp_path / "e.json")], options)


@pytest.mark.parametrize("options", HANDOFF)
def test_of_handoff(refused: Refused, files: Any, tmp_path: Path, options: str) -> None:
    refused(["handoff", str(files.folder / "D.onnx"), "-o", str(tmp_path / "b")], options)


@pytest.mark.parametrize("text", RECIPE)
def test_of_a_recipe(
    files: Any, qgraph: Any, tmp_path: Path, sessions: list[Any], text: str
) -> None:
    """Also what a stage would refuse after hours of those before it."""
    head = "" if text.startswith("name") else 'name = "table"\n'
    data = f'data = ["{files.data}"]\n'
    text = text.format(data=files.data)
    text = text.replace("[evaluate]\n", f"[evaluate]\n{data}")
    tail = "" if "[evaluate]" in text else f"\n[evaluate]\n{data}"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'{head}model = "{files.model}"\n{text}{tail}')
    said = qgraph("run", recipe, "-o", tmp_path / "out")
    assert said.code == 2, said.err
    assert sessions == []
    left = {path.name for path in (tmp_path / "out").rglob("*")}
    assert left <= {"model.onnx", "run.json", ".qgraph.lock"}

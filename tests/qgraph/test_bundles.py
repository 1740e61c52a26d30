"""Bundles of the three shipped models: whole, the same twice, taken by the tools they are for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import qgraph as api
from qgraph._sensitivity.report import Direction

MODELS = Path(__file__).parents[2] / "models"
BIN = Path(sys.executable).parent
BASH = shutil.which("bash") or "bash"
TRTEXEC = Path(__file__).with_name("trtexec.py")
SOURCES = {
    "qwen2_5_vl_tiny": ("outliers", "data/calibration.jsonl"),
    "vit_tiny": ("checkpoint", "data/calibration"),
    "yolo_tiny": (None, "data/calibration.json"),
}

pytestmark = pytest.mark.slow
Snapshot = Callable[[Path], dict[str, str]]


@dataclass(frozen=True)
class Shipped:
    """A run folder with profile C of a shipped model, its data, and the bundle made of them."""

    model: Path
    data: Path
    bundle: Path


@pytest.fixture(scope="module", params=list(SOURCES))
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """Profile C, as `sensitivity`, `profile`, `quantize` and `handoff` make it."""
    home, (source, data) = MODELS / request.param, SOURCES[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "work"
    if source is None:
        folder.mkdir()
        for name in ("model.onnx", "qgraph.json"):
            shutil.copy(home / name, folder)
    else:
        api.export(home / source, folder)
    report, ranges = api.sensitivity(
        folder / "model.onnx", data=[home / data], samples=1, direction=Direction.SOLO
    )
    report_path = folder / "sensitivity.json"
    report_path.write_text(report.model_dump_json(by_alias=True, exclude_none=True))
    for made in api.quantize(folder / "model.onnx", api.profile(report), ranges, names=["C"]):
        made.save(folder)
    api.handoff(folder / "C.onnx", folder / "bundle", data=[home / data])
    return Shipped(folder / "C.onnx", home / data, folder / "bundle")


def test_it_is_complete_and_clean(shipped: Shipped) -> None:
    content = json.loads((shipped.bundle / "handoff.json").read_text())
    assert api.verify(shipped.bundle).problems == ()
    assert all((shipped.bundle / item["path"]).exists() for item in content["files"])
    assert all(part["counts"]["error"] == 0 for part in content["lint"])
    assert all(part["counts"]["warning"] == 0 for part in content["lint"])
    assert content["counts"]["int8_nodes"] > 0
    assert not content["golden"]["synthetic"]
    int8 = [row for row in content["precision"] if row["precision"] == "int8"]
    assert all({"cost", "gain", "reason", "weight", "activation_scale"} <= set(row) for row in int8)
    floats = [case["float_outputs"] for case in content["golden"]["cases"]]
    assert all(floats)


def test_a_second_run_gives_the_same_bytes(
    shipped: Shipped, tmp_path: Path, snapshot: Snapshot
) -> None:
    api.handoff(shipped.model, tmp_path / "again", data=[shipped.data])
    assert snapshot(tmp_path / "again") == snapshot(shipped.bundle)


def test_one_altered_missing_or_extra_file_is_noticed(shipped: Shipped, tmp_path: Path) -> None:
    def problems(change: Callable[[Path], object]) -> str:
        copy = tmp_path / "copy"
        shutil.copytree(shipped.bundle, copy)
        change(copy)
        found = "; ".join(api.verify(copy).problems)
        shutil.rmtree(copy)
        return found

    golden = next((shipped.bundle / "golden").rglob("outputs/*.dat")).relative_to(shipped.bundle)
    altered = problems(lambda copy: (copy / golden).write_bytes(b"\0"))
    assert altered == f"{golden.as_posix()} was altered"
    assert problems(lambda copy: (copy / "README.md").unlink()) == "README.md is missing"
    assert problems(lambda copy: (copy / "x").write_bytes(b"")) == "x is extra"


def test_polygraphy_accepts_it(shipped: Shipped) -> None:
    """inspect model, check lint, surgeon sanitize, and run --onnxrt against the golden files."""
    pytest.importorskip("polygraphy")
    found = shutil.which("polygraphy") or str(BIN / "polygraphy")
    done = subprocess.run(
        [BASH, str(shipped.bundle / "polygraphy.sh")],
        capture_output=True, text=True, check=False, env={**os.environ, "POLYGRAPHY": found},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads((shipped.bundle / "handoff.json").read_text())["golden"]["cases"]
    assert done.stdout.count("PASSED") >= len(cases)


def test_its_build_script_runs_on_documented_flags(shipped: Shipped, tmp_path: Path) -> None:
    wrapper = tmp_path / "trtexec"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TRTEXEC}" "$@"\n')
    wrapper.chmod(0o755)
    script = shipped.bundle / "build_trt11.sh"
    environment = {"TRTEXEC": str(wrapper), "PYTHON": sys.executable, "TRT_VERSION": "11.3"}
    done = subprocess.run(
        [BASH, str(script), str(tmp_path / "engine")],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checks = [check for case in json.loads(done.stdout)["cases"] for check in case["checks"]]
    assert checks and all(check["ok"] for check in checks)

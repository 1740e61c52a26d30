"""The small vision models that ship: what was promised of them, and their recipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgraph
from qgraph._evaluation.results import Evaluation
from qgraph._graph.io.documents import read_document

MODELS = Path(__file__).parents[2] / "models"
MOST_BYTES = 8_000_000


def imported(folder: str, module: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module of a model's folder, which is no package."""
    monkeypatch.syspath_prepend(MODELS / folder)
    monkeypatch.delitem(sys.modules, module, raising=False)
    return __import__(module)


@pytest.mark.parametrize(
    "path",
    ["vit_tiny/checkpoint/model.safetensors", "yolo_tiny/model.onnx",
     "yolo_tiny/detector.safetensors"],
)  # fmt: skip
def test_what_ships_is_small(path: str) -> None:
    assert (MODELS / path).stat().st_size <= MOST_BYTES


@pytest.mark.parametrize(
    ("folder", "module", "pixels"),
    [("vit_tiny", "digit_images", "pixels"), ("yolo_tiny", "scenes", "ink")],
)
def test_no_digit_is_in_both_splits(
    folder: str, module: str, pixels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, heldout = imported(folder, module, monkeypatch).load_splits()
    count = len(train.labels) + len(heldout.labels)
    assert (len(heldout.labels), count) == (359, 1797)
    every = np.concatenate([getattr(train, pixels), getattr(heldout, pixels)]).reshape(count, -1)
    # no two of scikit-learn's digits are alike
    assert len(np.unique(every, axis=0)) == count


def test_the_classifier_is_right_on_97_of_100_held_out_digits(tmp_path: Path) -> None:
    qgraph.export(MODELS / "vit_tiny/checkpoint", tmp_path / "vit")
    found = qgraph.evaluate(
        [tmp_path / "vit/model.onnx"], data=[MODELS / "vit_tiny/data/heldout"], task="classify"
    )
    assert found.variants[0].metrics["top1"] >= 0.97


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The finished run of a recipe."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    return qgraph.run(MODELS / f"{request.param}.toml", folder)


def figures_of(folder: Path) -> dict[str, dict[str, float]]:
    variants = read_document(folder / "evaluation.json", Evaluation).variants
    return {item.name: item.metrics for item in variants}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "metric"), [("vit_tiny", "top1"), ("yolo_tiny", "map50")], indirect=["run"]
)
def test_a_recipe_runs_end_to_end_and_b_stays_within_a_point(run: Path, metric: str) -> None:
    found = {name: metrics[metric] for name, metrics in figures_of(run).items()}
    assert found.keys() == {"float", *"ABCD"}
    assert found["B"] >= found["float"] - 0.01
    assert (run / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "task", "source", "data", "variants"),
    [
        ("vit_tiny", "classify", "vit_tiny/checkpoint", "vit_tiny/data/heldout", "ABCD"),
        ("yolo_tiny", "detect", "yolo_tiny", "yolo_tiny/data/heldout.json", "D"),
    ],
    indirect=["run"],
)
def test_a_script_without_our_code_gets_the_same_figures(
    run: Path, task: str, source: str, data: str, variants: str
) -> None:
    script = Path(__file__).with_name("independent_vision.py")
    command = [sys.executable, "-P", str(script), task, str(run), str(MODELS / source)]
    environment = os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(MODELS / data), "model", *variants],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    theirs, ours = json.loads(done.stdout), figures_of(run)
    for name in variants:
        for key, value in theirs[name].items():
            # rounding of PyTorch's float model, 1e-6 of a logit, shows in the smallest distances
            assert ours[name][key] == pytest.approx(value, rel=1e-3, abs=1e-9), (name, key)
    for key, value in theirs["model"].items():
        assert ours["float"][key] == pytest.approx(value, abs=1e-9), key
    # the float model as PyTorch itself computes it
    for key in {"top1", "top5", "map50", "map"} & theirs["torch"].keys():
        assert theirs["torch"][key] == pytest.approx(theirs["model"][key], abs=1e-3)

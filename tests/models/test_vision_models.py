"""The small vision models that ship: what was promised of them, and their recipes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qgraph
from evaluation.results import Evaluation
from graph.io.documents import read_document

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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), [("vit_tiny", "top1"), ("yolo_tiny", "map50")])
def test_a_recipe_runs_end_to_end_and_b_stays_within_a_point(
    name: str, metric: str, tmp_path: Path
) -> None:
    folder = qgraph.run(MODELS / f"{name}.toml", tmp_path / name)
    variants = read_document(folder / "evaluation.json", Evaluation).variants
    figures = {item.name: item.metrics[metric] for item in variants}
    assert figures.keys() == {"float", *"ABCD"}
    assert figures["B"] >= figures["float"] - 0.01
    assert (folder / "report.html").is_file()

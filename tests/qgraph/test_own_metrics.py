"""Metrics of a caller's own see what they are given, once each, and change nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import built, drawn

import qgraph

FOUR_AT_A_TIME = """
<ir_version: 10, opset_import: ["" : 21]>
shades (float[4, 1, 4, 4] image) => (float[4, 5] logits)
<int64[2] flat = {4, 16}>
{
  f = Reshape(image, flat)
  [head] logits = MatMul(f, w)
}
"""
HOW = "mean=0.5 std=0.25"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    onnx.save(built(FOUR_AT_A_TIME, **drawn({"w": (16, 5)})), tmp_path / "shades.onnx")
    return tmp_path / "shades.onnx"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write one picture a class, five in all: the second batch holds one and is filled up."""
    pillow = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(12)
    for label in range(5):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True)
        pillow.fromarray(draw.integers(0, 256, (4, 4), np.uint8)).save(folder / "a.png")
    return tmp_path / "pictures"


def accuracy(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
    assert len(outputs["logits"]) == len(sample["image"]) == len(sample["labels"])
    return float(np.mean(outputs["logits"].argmax(1) == sample["labels"]))


def of_pictures(model: Path, pictures: Path) -> Any:
    """Return the logits of each picture, by onnxruntime alone."""
    pillow = pytest.importorskip("PIL.Image")
    values = [np.asarray(pillow.open(path), np.float32) for path in sorted(pictures.rglob("*.png"))]
    rows = (np.stack(values)[:, None] / 255 - 0.5) / 0.25
    batches = [rows[:4], np.repeat(rows[4:], 4, axis=0)]
    session = onnxruntime.InferenceSession(model)
    return np.concatenate([session.run(None, {"image": batch})[0] for batch in batches])[:5]


def test_rows_that_fill_a_batch_up_do_not_count(classifier: Path, pictures: Path) -> None:
    found = qgraph.evaluate(classifier, data=pictures, preprocess=HOW, metric=accuracy).variants[0]
    right = np.mean(of_pictures(classifier, pictures).argmax(1) == np.arange(5))
    assert 0 < right < 1, "a figure that padding could not change shows nothing"
    assert found.metrics["accuracy"] == found.metrics["top1"] == pytest.approx(right)


def test_a_batch_of_more_samples_counts_more(classifier: Path, pictures: Path) -> None:
    def mean_logit(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
        return float(outputs["logits"].mean())

    how: dict[str, Any] = {"data": pictures, "preprocess": HOW, "task": "fidelity"}
    found = qgraph.evaluate(classifier, metric=mean_logit, **how).variants[0].metrics
    expected = of_pictures(classifier, pictures).mean()
    assert found["mean_logit"] == pytest.approx(expected, rel=1e-5)


def test_what_a_metric_writes_into_its_arrays_changes_no_other_figure(files: Any) -> None:
    def own(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
        return float(np.abs(outputs["y"]).sum() + np.abs(sample["x"]).sum())

    def spoils(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
        found = own(outputs, sample)
        for array in (*outputs.values(), *sample.values()):
            array[:] = 0
        outputs.clear()
        return found

    models = [files.model, files.folder / "D.onnx"]
    spoilt = qgraph.evaluate(models, data=files.data, metric={"first": spoils, "second": own})
    clean = qgraph.evaluate(models, data=files.data)
    for variant, other in zip(spoilt.variants, clean.variants, strict=True):
        assert variant.metrics["first"] == variant.metrics["second"]
        assert variant.metrics.items() >= other.metrics.items()


def test_a_metric_may_have_any_name(classifier: Path, pictures: Path) -> None:
    found = qgraph.evaluate(
        classifier, data=pictures, preprocess=HOW, metric={"samples": lambda *_: 0.25}
    )
    assert found.variants[0].metrics["samples"] == 0.25


TAGGER = """
<ir_version: 10, opset_import: ["" : 21]>
tagger (float[batch, 6, 16] x) => (float[batch, 6, 20] y)
{ [all] y = MatMul(x, w) }
"""


@pytest.mark.parametrize("last", [(6,), ()], ids=["a label for each position", "one number"])
def test_a_metric_sees_labels_that_are_no_classes(tmp_path: Path, last: tuple[int, ...]) -> None:
    onnx.save(built(TAGGER, **drawn({"w": (16, 20)})), tmp_path / "tagger.onnx")
    draw = np.random.default_rng(4)
    x, labels = draw.random((7, 6, 16), np.float32), draw.normal(size=(7, *last))

    def distance(outputs: dict[str, Any], sample: dict[str, Any]) -> float:
        return float(np.abs(outputs["y"].mean(2).T - sample["labels"].T).mean())

    how: dict[str, Any] = {"task": "fidelity", "metric": distance}
    found = qgraph.evaluate(tmp_path / "tagger.onnx", data={"x": x, "labels": labels}, **how)
    (y,) = onnxruntime.InferenceSession(tmp_path / "tagger.onnx").run(None, {"x": x})
    rows = zip(y, labels, strict=True)
    expected = [np.abs(row.mean(1) - right).mean() for row, right in rows]
    assert found.variants[0].metrics["distance"] == pytest.approx(np.mean(expected), rel=1e-5)
    few = qgraph.evaluate(
        tmp_path / "tagger.onnx", data={"x": x, "labels": labels}, samples=3, **how
    )
    assert few.variants[0].metrics["distance"] == pytest.approx(np.mean(expected[:3]), rel=1e-5)


def test_labels_that_fit_no_sample_or_no_classes_are_refused(tmp_path: Path) -> None:
    onnx.save(built(TAGGER, **drawn({"w": (16, 20)})), tmp_path / "tagger.onnx")
    data = {"x": np.zeros((5, 6, 16), np.float32), "labels": np.zeros((4, 6))}
    with pytest.raises(qgraph.InputError, match="found 4 labels, expected 5, one for each"):
        qgraph.evaluate(
            tmp_path / "tagger.onnx", data=data, task="fidelity", metric={"own": lambda *_: 0.0}
        )
    data = {**data, "labels": np.zeros((5, 6), np.int64)}
    with pytest.raises(qgraph.InputError) as refused:
        qgraph.evaluate(tmp_path / "tagger.onnx", data=data, metric={"own": lambda *_: 0.0})
    assert "task='fidelity', metric=function" in str(refused.value.hint)

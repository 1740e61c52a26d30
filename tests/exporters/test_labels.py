"""Classifiers of no family: the right classes in the array `labels`, and agreement with float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import built, drawn
from onnx import parser

import qgraph
from qgraph._exporters.class_scores import class_scores
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array
from qgraph._report.advice import advice

MODEL = """digits (float[batch, 24] x) => (float[batch, 8] CALLED)
{ h = MatMul(x, w1) r = Relu(h) [last] CALLED = MatMul(r, w2) }
"""


def build(path: Path, output: str = "logits") -> Path:
    weights = drawn({"w1": (24, 32), "w2": (32, 8)})
    onnx.save(built(MODEL.replace("CALLED", output), 17, **weights), path)
    return path


def samples(count: int = 40) -> Array:
    return np.random.default_rng(1).standard_normal((count, 24)).astype(np.float32)


def scores(path: Path, x: Array) -> Array:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.fixture
def quantized(tmp_path: Path) -> tuple[Path, Path]:
    """A float classifier, and the same with everything quantized."""
    path = build(tmp_path / "float.onnx")
    np.savez(tmp_path / "calibration.npz", x=samples())
    report, ranges = qgraph.sensitivity(path, data=tmp_path / "calibration.npz", fast=True)
    (made,) = qgraph.quantize(path, qgraph.profile(report, cuts={"all": 1.0}), ranges)
    return path, made.save(tmp_path)


def test_top1_and_agreement_are_what_onnxruntime_says(
    quantized: tuple[Path, Path], tmp_path: Path
) -> None:
    x, (path, other) = samples(), quantized
    right = scores(path, x).argmax(1)
    right[:10] = (right[:10] + 1) % 8
    np.savez(tmp_path / "d.npz", x=x, labels=right)
    found = qgraph.evaluate([path, other], data=tmp_path / "d.npz")
    reference, variant = (item.metrics for item in found.variants)
    assert found.task == "classify" and reference["top1"] == pytest.approx(0.75)
    # Q/DQ as written: the session that evaluate opens runs them so, too
    got = _as_written(other, x)
    assert variant["top1"] == pytest.approx(np.mean(got.argmax(1) == right))
    same = np.mean(got.argmax(1) == scores(path, x).argmax(1))
    assert variant["top1_agreement"] == pytest.approx(same)
    five = np.argsort(-got, 1)[:, :5]
    assert variant["top5"] == pytest.approx(np.mean((five == right[:, None]).any(1)))
    assert found.recommendation is not None and "top1>=0.99x" in found.recommendation.limits


def _as_written(path: Path, x: Array) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])


def test_labels_in_another_order_are_suspected(
    quantized: tuple[Path, Path], tmp_path: Path
) -> None:
    x, (path, other) = samples(), quantized
    right = scores(path, x).argmax(1)
    for labels, suspected in (((right + 3) % 8, True), (right, False)):
        np.savez(tmp_path / "d.npz", x=x, labels=labels)
        said = advice(qgraph.evaluate([path, other], data=tmp_path / "d.npz"))
        assert any("order of classes" in sentence for sentence in said) is suspected


def test_without_labels_outputs_called_logits_are_held_against_float(
    quantized: tuple[Path, Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x=samples())
    found = qgraph.evaluate(list(quantized), data=tmp_path / "d.npz")
    assert found.task == "fidelity" and found.variants[0].metrics["top1_agreement"] == 1.0
    assert 0.5 < found.variants[1].metrics["top1_agreement"] <= 1.0


READER = """<ir_version: 10, opset_import: ["" : OPSET]>
reader (float[batch, length, 24] x) => (float[batch, length, 8] y)
{ h = MatMul(x, w1) r = Relu(h) s = MatMul(r, w2) y = Softmax AXIS (s) }
"""


def build_reader(path: Path, axis: str, opset: int = 17) -> Path:
    """A reader of text: a class for each position."""
    model = parser.parse_model(READER.replace("AXIS", axis).replace("OPSET", str(opset)))
    model.graph.initializer.extend(onnx.load(build(path)).graph.initializer)
    onnx.save(model, path)
    return path


def test_a_class_for_each_position_is_held_against_float_without_labels(tmp_path: Path) -> None:
    path = build_reader(tmp_path / "float.onnx", "<axis = 2>")
    x = np.random.default_rng(2).standard_normal((8, 200, 24)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    report, ranges = qgraph.sensitivity(path, data=tmp_path / "d.npz", fast=True)
    (made,) = qgraph.quantize(path, qgraph.profile(report, cuts={"all": 1.0}), ranges)
    other = made.save(tmp_path)
    found = qgraph.evaluate([path, other], data=tmp_path / "d.npz")
    same = np.mean(_as_written(other, x).argmax(2) == scores(path, x).argmax(2))
    assert found.variants[1].metrics["top1_agreement"] == pytest.approx(same)
    assert same < 1


@pytest.mark.parametrize(
    ("axis", "opset", "counted"),
    [("", 17, True), ("<axis = -1>", 17, True), ("<axis = 1>", 17, False), ("", 12, False)],
)
def test_a_softmax_over_positions_makes_no_classes(
    tmp_path: Path, axis: str, opset: int, *, counted: bool
) -> None:
    model = onnx.load(build_reader(tmp_path / "m.onnx", axis, opset))
    assert (class_scores(model, ["y"], None) is not None) is counted


@pytest.mark.parametrize(
    ("output", "labelled", "counted"),
    [("logits", False, True), ("class_scores", False, True), ("embedding", False, False),
     ("embedding", True, True)],
)  # fmt: skip
def test_what_is_no_class_score_is_not_counted(
    tmp_path: Path, output: str, *, labelled: bool, counted: bool
) -> None:
    model = onnx.load(build(tmp_path / "m.onnx", output))
    labels = np.zeros(4, np.int64) if labelled else None
    assert (class_scores(model, [output], labels) is not None) is counted


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros(39, np.int64), "found 39 labels, expected one for each"),
        (np.full(40, 8), "found 8 among the labels, expected 0 to 7"),
        (np.full(40, -1), "found -1 among the labels"),
        (np.zeros(40, np.float32), "is float32 \\[40\\], expected integers"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: Array, says: str) -> None:
    path = build(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=samples(), labels=labels)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(qgraph.QGraphError, match=says) as caught:
        qgraph.evaluate([path], data=tmp_path / "d.npz", journal=tmp_path / "e.journal")
    assert caught.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_data_with_labels_calibrates_as_data_without(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", x=samples())
    np.savez(tmp_path / "b.npz", x=samples(), labels=np.zeros(40, np.int64))
    one, other = (
        qgraph.calibrate(path, data=tmp_path / name, fast=True) for name in ("a.npz", "b.npz")
    )
    assert one.tensors == other.tensors


def test_some_data_with_and_some_without_labels_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", x=samples())
    np.savez(tmp_path / "b.npz", x=samples(), labels=np.zeros(40, np.int64))
    with pytest.raises(qgraph.QGraphError, match="has no array 'labels', and others have"):
        qgraph.evaluate([path], data=[tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(qgraph.QGraphError, match="--task classify needs the right classes"):
        qgraph.evaluate([path], data=tmp_path / "a.npz", task="classify")


def test_a_folder_of_images_for_a_model_that_takes_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    with pytest.raises(qgraph.QGraphError, match="found a folder without"):
        qgraph.evaluate([build(tmp_path / "m.onnx")], data=tmp_path / "images")


def test_rows_that_make_no_whole_batch_are_said_and_take_their_labels_along(
    tmp_path: Path,
) -> None:
    """Two files with a rest each: labels of the second are not taken for rows of the first."""
    path, x = build(tmp_path / "float.onnx"), samples(19)
    right = scores(path, x).argmax(1)
    right[[1, 12]] = (right[[1, 12]] + 1) % 8
    fixed = onnx.load(path)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(fixed, path)
    data = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file, rows in zip(data, (slice(10), slice(10, 19)), strict=True):
        np.savez(file, x=x[rows], labels=right[rows])
    said = {
        "2 of 10 rows in a.npz make no whole batch of the model's and were left out.",
        "1 of 9 rows in b.npz make no whole batch of the model's and were left out.",
    }
    report, ranges = qgraph.sensitivity(path, data=data, fast=True)
    assert ranges is not None and set(ranges.run.warnings or ()) == said
    assert said <= set(report.run.warnings or ())
    (made,) = qgraph.quantize(path, qgraph.profile(report, cuts={"all": 1.0}), ranges)
    found = qgraph.evaluate([path, made], data=data)
    assert said <= set(found.run.warnings)
    assert found.variants[0].metrics["top1"] == pytest.approx(14 / 16)
    few = qgraph.calibrate(path, data=data, samples=2, fast=True)
    assert few.run.warnings is None  # whoever asks for less leaves nothing out unasked


PROBABILITY = "s = MatMul(r, w2) [end] y = Sigmoid(s)"
BINARY = {
    "a probability [n, 1]": (PROBABILITY, "[batch, 1]", 0.5),
    "a probability [n]": (
        f"{PROBABILITY.replace('] y', '] p')} y = Squeeze(p, one)",
        "[batch]",
        0.5,
    ),
    "a logit [n, 1]": ("[end] y = MatMul(r, w2)", "[batch, 1]", 0.0),
}


@pytest.mark.parametrize(("end", "shape", "threshold"), BINARY.values(), ids=BINARY)
def test_one_output_tells_two_classes_apart(
    tmp_path: Path, end: str, shape: str, threshold: float
) -> None:
    text = f"two (float[batch, 24] x) => (float{shape} y) {{ h = MatMul(x, w1) r = Relu(h) {end} }}"
    given = drawn({"w1": (24, 32), "w2": (32, 1)}) | {"one": np.array([1])}
    path = tmp_path / "float.onnx"
    onnx.save(built(text, 17, **{name: w for name, w in given.items() if name in text}), path)
    x = samples()
    right = (scores(path, x).ravel() > threshold).astype(np.int64)
    assert 5 < right.sum() < 35
    right[:10] = 1 - right[:10]
    np.savez(tmp_path / "d.npz", x=x, labels=right)
    report, ranges = qgraph.sensitivity(path, data=tmp_path / "d.npz", fast=True)
    (made,) = qgraph.quantize(path, qgraph.profile(report, cuts={"all": 1.0}), ranges)
    found = qgraph.evaluate([path, made], data=tmp_path / "d.npz", task="classify")
    reference, variant = (item.metrics for item in found.variants)
    assert reference["top1"] == pytest.approx(0.75) and "top5" not in reference
    got = _as_written(made.save(tmp_path), x).ravel() > threshold
    assert variant["top1"] == pytest.approx(np.mean(got == right))
    same = np.mean(got == (scores(path, x).ravel() > threshold))
    assert variant["top1_agreement"] == pytest.approx(same)
    kind = "a logit" if threshold == 0 else "a probability"
    note = f"for {kind}, as its graph ends: class 1 above {threshold:g}"
    assert any(note in text for text in found.run.warnings)


def test_a_number_for_labels_beyond_two_classes_is_refused(tmp_path: Path) -> None:
    """A regression: labels are counts, not classes."""
    model = built(
        "one (float[n, 24] x) => (float[n, 1] y) { y = MatMul(x, w) }", **drawn({"w": (24, 1)})
    )
    with pytest.raises(InputError, match=r"of \[n, 1\] with labels 0 and 1") as caught:
        class_scores(model, ["y"], np.array([0, 1, 2]))
    assert "--task fidelity" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        ("bool[n, 1]", "y = Greater(s, zero)"),
        ("uint8[n, 1]", "g = Greater(s, zero) y = Cast<to = 2>(g)"),
        ("int64[n]", "y = ArgMax<axis = 1, keepdims = 0>(s)"),
    ],
)
def test_decisions_are_not_taken_for_scores(kind: str, end: str) -> None:
    """What is compared with a threshold inside cannot be once more."""
    text = f"two (float[n, 24] x) => ({kind} y) {{ s = MatMul(x, w) {end} }}"
    model = built(text, **drawn({"w": (24, 1)}), zero=np.array(0, np.float32))
    with pytest.raises(InputError, match=r"expected floats of shape \[n, classes\]"):
        class_scores(model, ["y"], np.array([0, 1, 1]))

"""From a picture to mean average precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import qgraph
from qgraph._evaluation.comparing import compare_evaluations
from qgraph._exporters.fidelity import FidelityTask
from qgraph._exporters.registry import files_named_in
from qgraph._exporters.yolo.coco import read_annotations, read_scenes
from qgraph._exporters.yolo.decode import (
    Boxes,
    BoxLayout,
    boxes_and_scores,
    decode_boxes,
    layout_of,
    suppress,
)
from qgraph._exporters.yolo.letterbox import letterbox
from qgraph._exporters.yolo.precision import ScenePrecision
from qgraph._exporters.yolo.task import DetectTask, evaluate
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.progress import silent
from qgraph._graph.run.session import open_session
from qgraph._quantize.profiles import Profile
from qgraph._sensitivity.report import Direction
from qgraph._steps.data import load_data
from qgraph._steps.model import open_model

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models/yolo_tiny"
SHIPPED = TINY / "model.onnx"


def boxes(count: int, seed: int, classes: int = 2) -> Boxes:
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 50, (count, 2))
    corners = np.concatenate([low, low + generator.uniform(1, 40, (count, 2))], 1)
    scores = np.sort(generator.uniform(0.01, 1, count))[::-1]
    labels = generator.integers(0, classes, count)
    return Boxes(corners.astype(np.float32), scores.astype(np.float32), labels)


def suppressed_by_onnxruntime(found: Boxes, overlap: float) -> list[int]:
    """Return the rows that ONNX's NonMaxSuppression keeps, class by class."""
    nms = onnx.helper.make_node("NonMaxSuppression", ["b", "s", "m", "o"], ["y"])
    make = onnx.helper.make_tensor_value_info
    inputs = [make("b", 1, [1, None, 4]), make("s", 1, [1, None, None])]
    inputs += [make("m", 7, [1]), make("o", 1, [1])]
    graph = onnx.helper.make_graph([nms], "g", inputs, [make("y", 7, [None, 3])])
    opset = [onnx.helper.make_opsetid("", 21)]
    session = open_session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    scores = np.zeros((1, 2, len(found.scores)), np.float32)
    scores[0, found.labels, np.arange(len(found.scores))] = found.scores
    feed = {"b": found.corners[None], "s": scores}
    feed |= {"m": np.array([1000], np.int64), "o": np.array([overlap], np.float32)}
    kept = session.run(feed)["y"]
    return sorted(row for _, label, row in kept if found.labels[row] == label)


@settings(max_examples=40)
@given(
    count=st.integers(1, 60), seed=st.integers(0, 1000), overlap=st.sampled_from([0.3, 0.5, 0.7])
)
def test_suppression_keeps_what_onnxruntime_keeps(count: int, seed: int, overlap: float) -> None:
    found = boxes(count, seed)
    assert sorted(suppress(found, overlap).tolist()) == suppressed_by_onnxruntime(found, overlap)


def test_no_boxes_are_no_boxes() -> None:
    assert suppress(boxes(0, 0), 0.5).tolist() == []
    assert len(decode_boxes(np.zeros((6, 20), np.float32), BoxLayout.CLASSES_FIRST).scores) == 0


@pytest.mark.parametrize(
    ("shape", "classes", "layout"),
    [
        ((1, 84, 8400), 80, BoxLayout.CLASSES_FIRST),
        ((1, 14, 336), 10, BoxLayout.CLASSES_FIRST),
        ((1, 25200, 85), 80, BoxLayout.WITH_OBJECTNESS),
        ((1, 8400, 84), 80, BoxLayout.PLACES_FIRST),
        ((1, 300, 6), 80, BoxLayout.FINISHED),
        ((1, 5, 8400), 1, BoxLayout.CLASSES_FIRST),
        ((1, 25200, 6), 1, BoxLayout.WITH_OBJECTNESS),
    ],
)
def test_a_layout_is_told_by_its_shape(
    shape: tuple[int, ...], classes: int, layout: BoxLayout
) -> None:
    assert layout_of(shape, classes) is layout


def test_an_output_that_fits_no_layout_is_refused() -> None:
    with pytest.raises(UsageError, match="holds no boxes of 3 classes"):
        layout_of((1, 84, 8400), 3)


def test_all_layouts_of_the_same_boxes_decode_to_the_same() -> None:
    found = boxes(5, 3)
    centre, size = (
        (found.corners[:, :2] + found.corners[:, 2:]) / 2,
        np.diff(found.corners.reshape(-1, 2, 2), axis=1)[:, 0],
    )
    scores = np.zeros((5, 2), np.float32)
    scores[np.arange(5), found.labels] = found.scores
    places = np.concatenate([centre, size, scores], 1)
    sure = np.concatenate([centre, size, np.ones((5, 1)), scores], 1)
    finished = np.concatenate([found.corners, found.scores[:, None], found.labels[:, None]], 1)
    kept = suppress(found, 0.7)
    for array, layout in (
        (places.T, BoxLayout.CLASSES_FIRST),
        (places, BoxLayout.PLACES_FIRST),
        (sure, BoxLayout.WITH_OBJECTNESS),
    ):
        got = decode_boxes(array, layout)
        assert np.allclose(got.corners, found.corners[kept], atol=1e-4)
        assert got.labels.tolist() == found.labels[kept].tolist()
    assert np.allclose(decode_boxes(finished, BoxLayout.FINISHED).corners, found.corners)


@pytest.mark.parametrize("size", [(128, 128), (100, 300), (37, 20)])
def test_a_letterboxed_picture_is_whole_and_its_boxes_come_back(size: tuple[int, int]) -> None:
    width, height = size
    picture = Image.new("RGB", size, (255, 0, 0))
    made = letterbox(picture, 64, 96)
    assert made.pixels.shape == (3, 64, 96) and made.pixels.dtype == np.float32
    red = made.pixels[0] > 0.9
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    inside = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
    # the picture's edges, to the rounding of one pixel of the input
    assert np.allclose(made.undone(inside), [[0, 0, width, height]], atol=1 / made.scale)
    assert np.allclose(made.pixels[:, ~red], 114 / 255)


def coco(folder: Path, **changes: Any) -> Path:
    """Write two pictures with one box each."""
    content: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 12]},
            {"image_id": 9, "category_id": 5, "bbox": [5, 5, 20, 10]},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 3, "name": "bee"}],
        "info": {"anything": "else"},
    }
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    path = folder / "truth.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_classes_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    found = read_annotations(coco(tmp_path))
    assert found.categories == (3, 5)
    assert [scene.path.name for scene in found.scenes] == ["a.png", "b.png"]


def test_right_boxes_are_worth_one_and_none_are_worth_nothing(tmp_path: Path) -> None:
    found = read_annotations(coco(tmp_path))
    right = [
        {"image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 12], "score": 0.9},
        {"image_id": 9, "category_id": 5, "bbox": [5, 5, 20, 10], "score": 0.8},
    ]
    assert evaluate(found, right, [7, 9]).stats[:2] == pytest.approx([1.0, 1.0])
    assert evaluate(found, right[:1], [7, 9]).stats[1] == pytest.approx(0.5)
    assert evaluate(found, [], [7, 9]).stats[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("layout", ["images", "annotations"])
def test_pictures_are_found_where_data_sets_have_them(tmp_path: Path, layout: str) -> None:
    path = coco(tmp_path)
    target = tmp_path / ("images" if layout == "images" else "val2017")
    target.mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(target / name)
    if layout == "annotations":
        (tmp_path / "annotations").mkdir()
        path = path.rename(tmp_path / "annotations/instances_val2017.json")
    assert [scene.path.parent for scene in read_scenes(path)] == [target, target]
    assert files_named_in(path) == [target / "a.png", target / "b.png"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": None}, "images"),
        ({"images": [{"id": 7, "file_name": "none.png"}], "annotations": []}, "no such image"),
        ({"images": [{"id": 7, "file_name": "../a.png"}], "annotations": []}, "outside"),
        ({"images": [{"id": 7, "file_name": "/etc/hosts"}], "annotations": []}, "outside"),
        ({"categories": []}, "not both in the file"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 2, 3]}]}, "bbox"),
        ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "the same id"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = coco(tmp_path, **changes)
    with pytest.raises(InputError, match=said):
        read_annotations(path)


def test_the_shipped_detector_finds_the_digits_of_held_out_scenes() -> None:
    opened = open_model(SHIPPED)
    task = opened.family.task(opened.view, None, [TINY / "data/heldout.json"], 60)
    assert isinstance(task, DetectTask)
    metrics = task.measure("float", open_session(SHIPPED), silent)
    # 0.996 over all 160; what is asked of the model is 0.85
    assert metrics["map50"] > 0.95
    assert metrics["map"] > 0.8


def test_average_precision_of_a_resample_is_pycocotools_own() -> None:
    opened = open_model(SHIPPED)
    task = opened.family.task(opened.view, None, [TINY / "data/heldout.json"], 24)
    assert isinstance(task, DetectTask)
    metrics = task.measure("float", open_session(SHIPPED), silent)
    samples = task.per_sample("float")
    weights = np.stack([np.ones(24), (np.arange(24) < 9).astype(float)])
    found = samples.metrics(weights)
    part = opened.family.task(opened.view, None, [TINY / "data/heldout.json"], 9)
    of_part = part.measure("float", open_session(SHIPPED), silent)
    assert samples.count == 24
    for key in ("map50", "map"):
        assert found[key] == pytest.approx([metrics[key], of_part[key]], abs=1e-9)


def test_average_precision_is_compared_picture_by_picture() -> None:
    found = qgraph.evaluate([SHIPPED], data=[TINY / "data/heldout.json"], samples=12, sanity=False)
    variant = found.variants[0]
    for key in ("map50", "map"):
        parts = variant.samples[key].numerator
        assert len(parts) == 12
        assert np.mean(parts) == pytest.approx(variant.metrics[key], abs=1e-6)
    changes = {item.metric: item for item in compare_evaluations(found, found).changes}
    assert changes["map"].paired and changes["map"].interval == (0.0, 0.0)
    # of the distance from float, from twelve scenes none can tell
    assert changes["mse"].interval is None


def test_a_detector_that_finds_nothing_has_no_precision_in_any_resample(tmp_path: Path) -> None:
    annotations = read_annotations(coco(tmp_path))
    evaluated = evaluate(annotations, [], [scene.id or 0 for scene in annotations.scenes])
    count = len(annotations.scenes)
    found = ScenePrecision(evaluated, np.arange(count)).metrics(np.ones((3, count)))
    assert all(values.tolist() == [0.0, 0.0, 0.0] for values in found.values())


def test_a_model_of_other_classes_than_the_datas_is_refused(tmp_path: Path) -> None:
    opened = open_model(SHIPPED)
    task = opened.family.task(opened.view, None, [coco(tmp_path)], 60)
    with pytest.raises(UsageError, match="classes must be the model's"):
        task.measure("float", open_session(SHIPPED), silent)


def test_a_folder_of_pictures_gives_feeds_and_fidelity(tmp_path: Path) -> None:
    coco(tmp_path)
    opened = open_model(SHIPPED)
    feeds = opened.family.feeds(opened.view, tmp_path, 5)
    assert [feed["images"].shape for feed in feeds] == [(1, 3, 128, 128)] * 2
    assert isinstance(opened.family.task(opened.view, None, [tmp_path], 5), FidelityTask)
    with pytest.raises(InputError, match="without annotations"):
        opened.family.task(opened.view, "detect", [tmp_path], 5)


@pytest.mark.parametrize("annotations", [[], [{"image_id": 7, "category_id": 3, "iscrowd": 1}]])
def test_pictures_without_boxes_have_no_precision(
    tmp_path: Path, annotations: list[dict[str, Any]]
) -> None:
    """Pycocotools would say −1, of which every variant has as much."""
    each = [{"bbox": [1, 2, 3, 4], **item} for item in annotations]
    opened = open_model(SHIPPED)
    with pytest.raises(InputError, match="none of 2 pictures holds a box"):
        opened.family.task(opened.view, None, [coco(tmp_path, annotations=each)], 5)


def test_two_sets_of_annotations_are_refused(tmp_path: Path) -> None:
    opened = open_model(SHIPPED)
    path = coco(tmp_path)
    with pytest.raises(UsageError, match="2 data sets, expected one"):
        opened.family.task(opened.view, None, [path, path], 5)


@pytest.fixture
def detector_of_batch(tmp_path: Path) -> Callable[[int], Path]:
    """Write the shipped detector with a fixed batch."""

    def make(batch: int) -> Path:
        model = onnx.load(SHIPPED)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, tmp_path / f"{batch}.onnx")
        return tmp_path / f"{batch}.onnx"

    return make


def test_a_batch_that_is_not_full_counts_its_own_pictures_only(
    detector_of_batch: Callable[[int], Path],
) -> None:
    found = []
    for batch in (1, 4):
        path = detector_of_batch(batch)
        opened = open_model(path)
        task = opened.family.task(opened.view, None, [TINY / "data/heldout.json"], 10)
        found.append(task.measure("float", open_session(path), silent)["map"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((1, 14, 336), [(1, 0, 4), (1, 4, None)]),
        ((1, 25200, 85), [(2, 0, 4), (2, 4, None)]),
        ((1, 300, 6), [(2, 0, 4), (2, 4, 5), (2, 5, None)]),
        ((1, 4, 8400), []),
        ((1, 255, 20, 20), []),
    ],
)
def test_boxes_and_scores_are_parts_of_one_output(
    shape: tuple[int, ...], parts: list[tuple[int, int, int | None]]
) -> None:
    assert [(p.axis, p.start, p.stop) for p in boxes_and_scores(shape)] == parts


@pytest.mark.parametrize("engine", ["switch", "wavefront"])
def test_scores_count_as_much_as_boxes(engine: str) -> None:
    """Against the errors of both computed here, of the model emitted for one convolution."""
    report, ranges = qgraph.sensitivity(
        SHIPPED, samples=1, direction=Direction.SOLO, engine=engine, include=["classes", "boxes"]
    )
    assert report.metric == "noise_to_signal"
    (feed,) = load_data(open_model(SHIPPED), [], 1, 0).feeds
    chosen = next(node for node in report.nodes if "classes" in node.name)
    one = Profile(name="one", quantize=(chosen.name,))
    profiles = qgraph.profile(report).model_copy(update={"profiles": (one,)})
    (made,) = qgraph.quantize(SHIPPED, profiles, ranges)
    wanted, got = (open_session(model).run(feed)["output0"] for model in (SHIPPED, made.model))
    ratios = [
        np.square(got[:, rows] - wanted[:, rows]).sum() / np.square(wanted[:, rows]).sum()
        for rows in (slice(0, 4), slice(4, None))
    ]
    assert chosen.solo is not None
    # sums of float32, in another order
    assert chosen.solo.noise_to_signal == pytest.approx(np.mean(ratios), rel=1e-4)
    assert chosen.solo.mse == pytest.approx(np.square(got - wanted).mean(), rel=1e-4)

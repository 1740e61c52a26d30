"""Pictures without a processor file: gray, and in sizes that a person names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn
from onnx import parser

import qgraph
from qgraph._exporters.vit.pictures import EXAMPLE, described_processor
from qgraph._graph.tensors import Array, TensorSpec

Image = pytest.importorskip("PIL.Image")

GRAY = """
<ir_version: 10, opset_import: ["" : 21]>
digits (float[batch, 1, 8, 8] image) => (float[batch, 10] logits)
<int64[2] flat = {-1, 512}>
{
  [stem] a = Conv<pads = [1, 1, 1, 1]>(image, w)
  r = Relu(a)
  f = Reshape(r, flat)
  [head] logits = MatMul(f, v)
}
"""


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    weights = drawn({"w": (8, 1, 3, 3), "v": (512, 10)})
    onnx.save(built(GRAY, **weights), tmp_path / "digits.onnx")
    return tmp_path / "digits.onnx"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write colored pictures of other sizes than the model's, a folder for each class."""
    draw = np.random.default_rng(1)
    for label in range(10):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True)
        pixels = draw.integers(0, 256, (20, 12 + label, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
    return tmp_path / "pictures"


def by_hand(path: Path) -> Array:
    """Return what Pillow and NumPy make of a picture: gray, 8 × 8, −1 to 1."""
    gray = Image.open(path).convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    values: Array = (np.asarray(gray, np.float32) / 255 - 0.5) / 0.5
    return values[None, None]


def test_gray_pictures_are_taken_as_the_option_says(classifier: Path, pictures: Path) -> None:
    model = qgraph.open(classifier).along((), "mean=0.5 std=0.5", [pictures])
    data = model.data(pictures, 10)
    expected = [by_hand(path) for path in sorted(pictures.rglob("*.png"))]
    assert len(data.feeds) == 10
    for feed, values in zip(data.feeds, expected, strict=True):
        np.testing.assert_allclose(feed["image"], values, atol=1e-6)


def test_a_whole_chain_on_a_bare_folder(classifier: Path, pictures: Path) -> None:
    how: dict[str, Any] = {"data": pictures, "preprocess": "mean=0.5 std=0.5"}
    report, ranges = qgraph.sensitivity(classifier, small=True, **how, fast=True)
    made = qgraph.quantize(classifier, qgraph.profile(report), ranges, names="D")
    found = qgraph.evaluate([classifier, *made], **how)
    assert found.task == "classify" and found.run.samples == 10
    assert {"top1", "top1_agreement"} <= found.variants[1].metrics.keys()


def test_what_is_missing_is_said_with_what_to_write(classifier: Path, pictures: Path) -> None:
    with pytest.raises(qgraph.InputError, match="Say so with --preprocess"):
        qgraph.sensitivity(classifier, data=pictures, small=True, fast=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "mean", "mean=0.5 blur=3", "mean=0.5,0.5", "mean=0.5 mean=0.4", "mean=0.5, 1"),
        *("size=8x8x8", "size=0", "size=8x-1", "size=10001", "crop=0", "crop=8x99999"),
        *("shortest=0", "shortest=-1", "shortest=99999999", "size=8 shortest=8"),
        *("std=a", "std=0", "std=-1", "std=nan", "std=inf", "mean=nan", "mean=-inf"),
        *("scale=0", "scale=nan"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(
    classifier: Path, pictures: Path, text: str
) -> None:
    with pytest.raises(qgraph.UsageError, match=r"mean=0.485") as caught:
        qgraph.sensitivity(classifier, data=pictures, preprocess=text, small=True, fast=True)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize("command", ["sensitivity", "evaluate"])
def test_it_is_refused_where_no_picture_is_read(
    classifier: Path, tmp_path: Path, command: str
) -> None:
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, image=np.zeros((2, 1, 8, 8), np.float32))
    with pytest.raises(qgraph.UsageError, match=r"arrays\.npz holds arrays"):
        getattr(qgraph, command)(classifier, data=arrays, preprocess="mean=0.5")
    with pytest.raises(qgraph.UsageError, match="no images are given"):
        qgraph.calibrate(classifier, preprocess="mean=0.5")


def test_a_model_that_takes_no_pictures_takes_no_words_for_them(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[n, 4] x) => (float[n, 4] y)'
    model = parser.parse_model(text + " { y = Relu(x) }")
    onnx.save(model, tmp_path / "relu.onnx")
    for wrong in (
        lambda: qgraph.calibrate(
            model, data=np.ones((1, 4), np.float32), preprocess="mean=0.5", fast=True
        ),
        lambda: qgraph.handoff(tmp_path / "relu.onnx", tmp_path / "out", preprocess="mean=0.5"),
    ):
        with pytest.raises(qgraph.UsageError, match="this model's family is generic"):
            wrong()
    assert not (tmp_path / "out").exists()


def test_what_a_person_says_counts_before_the_file_beside_the_model(
    classifier: Path, pictures: Path
) -> None:
    settings = {
        "image_processor_type": "ViTImageProcessor", "size": 8, "image_mean": [0], "image_std": [1]
    }  # fmt: skip
    beside = classifier.with_name("preprocessor_config.json")
    beside.write_text(json.dumps(settings))
    said = qgraph.open(classifier).along((), "mean=0.5 std=0.5", [pictures]).data(pictures, 1)
    np.testing.assert_allclose(
        said.feeds[0]["image"], by_hand(sorted(pictures.rglob("*.png"))[0]), atol=1e-6
    )
    of_file = qgraph.open(classifier).data(pictures, 1)
    assert of_file.feeds[0]["image"].min() >= 0


def test_a_picture_is_not_resized_to_more_than_is_read(classifier: Path, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.mkdir()
    Image.fromarray(np.zeros((2, 400), np.uint8)).save(long / "a.png")
    with pytest.raises(qgraph.LimitError, match="would have 400000×2000 pixels"):
        qgraph.calibrate(classifier, data=long, preprocess="shortest=2000 crop=8", fast=True)


def test_a_recipe_says_it_once(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "digits.toml"
    recipe.write_text(
        f"""
        name = "digits"
        model = "{classifier.name}"
        [sensitivity]
        data = ["{pictures.name}"]
        preprocess = "mean=0.5 std=0.5"
        small = true
        fast = true
        [profile]
        budget = "top1_agreement>=0.1"
        """
    )
    folder = qgraph.run(recipe, tmp_path / "out")
    found: Any = qgraph.load(folder / "evaluation.json")
    assert found.task == "classify" and found.run.samples == 10


def test_a_size_that_is_not_the_models_is_refused(classifier: Path, pictures: Path) -> None:
    with pytest.raises(qgraph.InputError, match=r"--preprocess makes \[1, 9, 9\]"):
        qgraph.sensitivity(classifier, data=pictures, preprocess="size=9", small=True, fast=True)


def torchvision_style(picture: Path) -> Array:
    """Return Resize(256), CenterCrop(224), ToTensor, Normalize, as torchvision's models want it."""
    image = Image.open(picture).convert("RGB")
    height, width = image.height, image.width
    short = min(height, width)
    size = (256 * width // short, 256 * height // short)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    values = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    scaled: Array = (values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.transpose(2, 0, 1)


def test_the_example_is_torchvisions_preprocessing(pictures: Path) -> None:
    spec = TensorSpec("x", np.dtype(np.float32), ("n", 3, 224, 224))
    picture = sorted(pictures.rglob("*.png"))[3]
    made = described_processor(EXAMPLE, spec)(Image.open(picture).convert("RGB"))
    np.testing.assert_allclose(made, torchvision_style(picture), atol=1e-5)


def test_a_bundle_says_how_pictures_were_made(classifier: Path, pictures: Path) -> None:
    model = qgraph.open(classifier).along((), "mean=0.5 std=0.5", [pictures])
    said = described_processor("mean=0.5 std=0.5", model.view.inputs[0]).described("image", "x")
    assert said.steps()[0].startswith("decode as gray")
    assert said.channels == 1 and said.size == (8, 8)


def of_batch(size: int, classifier: Path, folder: Path) -> Path:
    """Write the classifier with a fixed batch; return its path."""
    model = onnx.load(classifier)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(model, folder / "fixed.onnx")
    return folder / "fixed.onnx"


def test_pictures_that_make_no_whole_batch_are_left_out_and_said(
    classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    """Ten pictures by fours are scored as the first eight one by one: no row counts twice."""
    fixed = of_batch(4, classifier, tmp_path)
    how: dict[str, Any] = {"data": pictures, "preprocess": "mean=0.5 std=0.5", "small": True}
    reports = []
    for path, samples in ((fixed, 10), (classifier, 8)):
        seen = qgraph.calibrate(path, samples=samples, **how, fast=True).model_copy(
            update={"unseen": ()}
        )
        reports.append(qgraph.sensitivity(path, ranges=seen, samples=samples, **how)[0])
    by_fours, one_by_one = reports
    left = "2 of 10 pictures make no whole batch of 4 and were left out."
    assert by_fours.run.samples == 2 and left in (by_fours.run.warnings or ())
    for a, b in zip(by_fours.nodes, one_by_one.nodes, strict=True):
        assert a.name == b.name and a.solo is not None and b.solo is not None
        assert a.solo.mse == pytest.approx(b.solo.mse, rel=1e-4)


def test_fewer_pictures_than_a_batch_fill_it_evenly_and_that_is_said(
    classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    fixed = of_batch(20, classifier, tmp_path)
    opened = qgraph.open(fixed).along((), "mean=0.5 std=0.5", [pictures])
    data = opened.data(pictures, 10)
    (feed,) = data.feeds
    np.testing.assert_array_equal(feed["image"][:10], feed["image"][10:])
    assert "10 pictures are fewer than the model's batch of 20" in data.source.notes[0]


def test_batches_hold_no_more_pictures_than_are_asked_for(
    classifier: Path, pictures: Path, tmp_path: Path
) -> None:
    fixed = of_batch(4, classifier, tmp_path)
    opened = qgraph.open(fixed).along((), "mean=0.5 std=0.5", [pictures])
    seven, three = (opened.data(pictures, count) for count in (7, 3))
    assert len(seven.feeds) == 1 and "3 of 7 pictures" in seven.source.notes[0]
    (feed,) = three.feeds
    np.testing.assert_array_equal(feed["image"][3], feed["image"][0])

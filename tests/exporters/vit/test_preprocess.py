"""Pictures without a processor file: gray, and in sizes that a person names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import qgraph
from qgraph._exporters.vit.described import EXAMPLE, described_processor
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
    draw = np.random.default_rng(0)
    model = parser.parse_model(GRAY)
    for name, shape in {"w": (8, 1, 3, 3), "v": (512, 10)}.items():
        values = draw.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "digits.onnx")
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
    model = qgraph.open(classifier).along((), "mean=0.5 std=0.5")
    data = model.data(pictures, 10)
    expected = [by_hand(path) for path in sorted(pictures.rglob("*.png"))]
    assert len(data.feeds) == 10
    for feed, values in zip(data.feeds, expected, strict=True):
        np.testing.assert_allclose(feed["image"], values, atol=1e-6)


def test_a_whole_chain_on_a_bare_folder(classifier: Path, pictures: Path) -> None:
    how: dict[str, Any] = {"data": pictures, "preprocess": "mean=0.5 std=0.5"}
    report, ranges = qgraph.sensitivity(classifier, small=True, **how)
    made = qgraph.quantize(classifier, qgraph.profile(report), ranges, names="D")
    found = qgraph.evaluate([classifier, *made], **how)
    assert found.task == "classify" and found.run.samples == 10
    assert {"top1", "top1_agreement"} <= found.variants[1].metrics.keys()


def test_what_is_missing_is_said_with_what_to_write(classifier: Path, pictures: Path) -> None:
    with pytest.raises(qgraph.InputError, match="Say so with --preprocess"):
        qgraph.sensitivity(classifier, data=pictures, small=True)


@pytest.mark.parametrize(
    "text",
    ["", "mean", "mean=0.5 blur=3", "mean=0.5,0.5", "size=8x8x8", "size=0", "std=a", "mean=0.5, 1"],
)
def test_what_cannot_be_read_is_refused_with_an_example(
    classifier: Path, pictures: Path, text: str
) -> None:
    with pytest.raises(qgraph.UsageError, match=r"mean=0.485") as caught:
        qgraph.sensitivity(classifier, data=pictures, preprocess=text, small=True)
    assert repr(text) in caught.value.message


def test_a_size_that_is_not_the_models_is_refused(classifier: Path, pictures: Path) -> None:
    with pytest.raises(qgraph.InputError, match=r"--preprocess makes \[1, 9, 9\]"):
        qgraph.sensitivity(classifier, data=pictures, preprocess="size=9", small=True)


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
    model = qgraph.open(classifier).along((), "mean=0.5 std=0.5")
    said = described_processor("mean=0.5 std=0.5", model.view.inputs[0]).described("image", "x")
    assert said.steps()[0].startswith("decode as gray")
    assert said.channels == 1 and said.size == (8, 8)

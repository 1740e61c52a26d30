"""What a bundle says of preprocessing is enough to make the same pixels without qgraph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

import qgraph
from qgraph._exporters.preprocessing import Preprocessing
from qgraph._exporters.vit.processor import CONFIG, read_processor
from qgraph._exporters.yolo.letterbox import letterbox

MEAN, STD = [0.48, 0.45, 0.4], [0.22, 0.23, 0.24]
SETTINGS: dict[str, dict[str, Any]] = {
    "exact": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 24}},
    "edge and crop": {
        "image_processor_type": "BitImageProcessor", "resample": 2,
        "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24},
    },
    "plain": {
        "image_processor_type": "ViTImageProcessor", "size": 32,
        "do_resize": False, "do_normalize": False,
    },
}  # fmt: skip


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def by_the_book(image: Image.Image, told: dict[str, Any]) -> NDArray[np.float32]:
    """Return the input made from `preprocessing` of handoff.json, with Pillow and NumPy alone."""
    how = Image.Resampling[told.get("interpolation", "nearest").upper()]
    if told.get("resize") == "exact":
        image = image.resize(told["size"][::-1], how)
    elif told.get("resize") == "shortest_edge":
        factor = told["size"][0] / min(image.size)
        width, height = (int(factor * side + 1e-9) for side in image.size)
        image = image.resize((width, height), how)
    elif told.get("resize") == "fit":
        height, width = told["size"]
        factor = min(height / image.height, width / image.width)
        image = image.resize((round(image.width * factor), round(image.height * factor)), how)
        framed = Image.new("RGB", (width, height), (told["padding"],) * 3)
        framed.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = framed
    if "crop" in told:
        height, width = told["crop"]
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    values = np.asarray(image, np.float32) * told.get("scale", 1)
    values = (values - told.get("mean", 0)) / told.get("std", 1)
    made: NDArray[np.float32] = values.transpose(2, 0, 1).astype(np.float32)
    return made


def as_json(told: Preprocessing) -> dict[str, Any]:
    return told.model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("size", [(64, 48), (48, 64)])
def test_a_classifiers_pixels_follow_from_what_is_told(
    tmp_path: Path, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    path = tmp_path / CONFIG
    path.write_text(json.dumps(settings | {"image_mean": MEAN, "image_std": STD}))
    processor = read_processor(path)
    made = by_the_book(picture(*size), as_json(processor.described("x")))
    assert made == pytest.approx(processor(picture(*size)), abs=1e-5)


def test_a_detectors_pixels_follow_from_what_is_told(build: Any, tmp_path: Path) -> None:
    head = (
        "(float[1,3,32,64] x) => (float[1,8,A] y) { a = Conv<strides=[8,8]>(x, w)"
        " b = Conv<strides=[16,16]>(x, w) s = Constant<value_ints = [1, 8, -1]>()"
        " c = Reshape(a, s) d = Reshape(b, s) y = Concat<axis=2>(c, d) }"
    )
    onnx.save(build(head, w=np.ones((8, 3, 1, 1), np.float32)), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    picture(50, 40).save(tmp_path / "data" / "a.png")
    made = qgraph.handoff(tmp_path / "m.onnx", tmp_path / "b", data=[tmp_path / "data"])
    assert made.preprocessing is not None and made.preprocessing.size == (32, 64)
    golden = np.fromfile(tmp_path / "b" / made.golden.cases[0].inputs[0].file, np.float32)
    told = json.loads((tmp_path / "b" / "handoff.json").read_text())["preprocessing"]
    pixels = by_the_book(picture(50, 40), told)
    assert golden.reshape(pixels.shape) == pytest.approx(pixels, abs=1e-6)
    assert pixels == pytest.approx(letterbox(picture(50, 40), 32, 64).pixels, abs=1e-6)


def test_a_classifiers_bundle_tells_how_its_golden_input_was_made(
    build: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    graph = (
        "(float[batch,3,32,24] x) => (float[batch,4] y)"
        " { p = GlobalAveragePool(x) f = Flatten(p) y = MatMul(f, w) }"
    )
    onnx.save(build(graph, w=np.ones((3, 4), np.float32)), tmp_path / "m.onnx")
    settings = SETTINGS["exact"] | {"image_mean": MEAN, "image_std": STD}
    (tmp_path / CONFIG).write_text(json.dumps(settings))
    (tmp_path / "data").mkdir()
    picture(64, 48).save(tmp_path / "data" / "a.png")
    made = qgraph.handoff(tmp_path / "m.onnx", tmp_path / "b", data=[tmp_path / "data"])
    golden = np.fromfile(tmp_path / "b" / made.golden.cases[0].inputs[0].file, np.float32)
    told = json.loads((tmp_path / "b" / "handoff.json").read_text())["preprocessing"]
    pixels = by_the_book(picture(64, 48), told)
    assert golden.reshape(pixels.shape) == pytest.approx(pixels, abs=1e-5)
    page = (tmp_path / "b" / "README.md").read_text()
    assert "resize to 32 × 24" in page and "subtract [0.48, 0.45, 0.4]" in page
    (tmp_path / CONFIG).unlink()
    assert qgraph.handoff(tmp_path / "m.onnx", tmp_path / "c").preprocessing is None

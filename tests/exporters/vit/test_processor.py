"""Our image processor against transformers' own, to the bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from qgraph._exporters.vit.processor import CONFIG, read_processor
from qgraph._graph.errors import InputError

HF: Any = transformers
PROCESSORS = {
    "vit": lambda: HF.ViTImageProcessor(size={"height": 32, "width": 24}),
    "vit, bicubic, not scaled": lambda: HF.ViTImageProcessor(
        size={"height": 32, "width": 32}, resample=3, do_rescale=False
    ),
    "vit, not normalized": lambda: HF.ViTImageProcessor(do_normalize=False),
    "vit, not resized": lambda: HF.ViTImageProcessor(do_resize=False),
    "deit": lambda: HF.DeiTImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}
    ),
    "deit, crop beyond the picture": lambda: HF.DeiTImageProcessor(
        size={"height": 20, "width": 20}, crop_size={"height": 33, "width": 33}
    ),
    "dinov2": lambda: HF.BitImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ),
    "resnet": lambda: HF.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "convnext, large": lambda: HF.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "mobilenet": lambda: HF.MobileNetV2ImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    ),
}


def save(folder: Path, **config: Any) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("size", [(50, 61), (48, 30), (32, 32)])
def test_a_picture_comes_out_as_from_transformers(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    theirs = PROCESSORS[kind]()
    theirs.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    got = read_processor(tmp_path / CONFIG)(Image.fromarray(pixels))
    assert got.dtype == np.float32
    assert np.array_equal(got, expected)


def test_a_file_of_the_time_of_feature_extractors_is_understood(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        feature_extractor_type="ViTFeatureExtractor",
        size=24,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    expected = HF.ViTImageProcessor(size={"height": 24, "width": 24})
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    wanted = expected(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(read_processor(path)(Image.fromarray(pixels)), wanted)


@pytest.mark.parametrize("resized", [{}, {"do_resize": False}], ids=["resized", "not resized"])
@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Bit", "MobileNetV1", "MobileNetV2", "ConvNext"])
def test_what_a_file_leaves_out_is_what_transformers_puts_there(
    tmp_path: Path, kind: str, resized: dict[str, Any]
) -> None:
    square = {"height": 32, "width": 32}
    size = square if kind in ("ViT", "DeiT") else {"shortest_edge": 40}
    config = {"image_processor_type": f"{kind}ImageProcessor", "size": size, **resized}
    config |= {"crop_size": square, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    theirs = getattr(HF, f"{kind}ImageProcessor").from_dict(config)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    expected = theirs(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    got = read_processor(save(tmp_path, **config))(Image.fromarray(pixels))
    assert np.array_equal(got, expected)


def test_an_unknown_type_is_refused_with_those_known(tmp_path: Path) -> None:
    path = save(tmp_path, image_processor_type="SamImageProcessor")
    with pytest.raises(InputError, match="type SamImageProcessor, expected one of ViTImage"):
        read_processor(path)


@pytest.mark.parametrize(
    "config",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 3}, "image_mean": []},
        {"image_processor_type": "ConvNextImageProcessor", "size": "large"},
    ],
)
def test_a_setting_that_is_missing_or_strange_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        read_processor(save(tmp_path, **config))


@pytest.mark.parametrize("text", ["", "[]", '{"size": 1, "size": 2}'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / CONFIG
    path.write_text(text)
    with pytest.raises(InputError):
        read_processor(path)


def test_the_processor_in_the_guide_is_torchvisions_usual_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs/guide/your-model.md").read_text()
    written = next(block for block in re.findall(r"```json\n(.*?)```", guide, re.DOTALL))
    (tmp_path / CONFIG).write_text(written)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 270, 3), np.uint8)
    image = Image.fromarray(pixels)
    theirs = HF.BitImageProcessor.from_pretrained(tmp_path)
    expected = theirs(image, return_tensors="np")["pixel_values"][0]
    assert expected.shape == (3, 224, 224)
    assert np.array_equal(read_processor(tmp_path / CONFIG)(image), expected)

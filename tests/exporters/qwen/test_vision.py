"""Images reach the decoder exactly as the whole PyTorch model would put them there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from qgraph._exporters.qwen.generate import Embedder, generate
from qgraph._exporters.qwen.samples import read_samples
from qgraph._exporters.qwen.vision import VisionTower
from qgraph._graph.errors import InputError
from qgraph._graph.run.session import open_session

# float32 sums in another order; logits here are about 10.
CLOSE = 1e-4
QUESTION = {"text": "the dog?", "image": "picture.png", "answer": "the fox"}


@pytest.fixture(scope="module")
def data(picture: Path) -> Path:
    path = picture / "questions.jsonl"
    path.write_text(json.dumps(QUESTION) + "\n")
    return path


def torch_inputs(vl: Any, picture: Path, token_ids: list[int]) -> dict[str, Any]:
    """Return what the whole PyTorch model takes, with pixels in place of embeddings."""
    processor = transformers.Qwen2VLImageProcessor.from_pretrained(vl.source)
    pixels = processor(images=[Image.open(picture / "picture.png")], return_tensors="pt")
    ids = torch.tensor([token_ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}


def test_logits_with_an_image_equal_the_whole_pytorch_model(
    vl: Any, picture: Path, data: Path
) -> None:
    sample = read_samples(vl.model, vl.manifest, data)[0]
    with torch.no_grad():
        expected = vl.torch_model()(**torch_inputs(vl, picture, sample.token_ids.tolist())).logits
    found = open_session(vl.model).run(sample.feed)["logits"]
    assert np.abs(found - expected.numpy()).max() < CLOSE


def test_an_image_has_one_token_per_merged_patch_and_three_rows_of_positions(
    vl: Any, data: Path
) -> None:
    sample = read_samples(vl.model, vl.manifest, data)[0]
    image = sample.token_ids == vl.manifest.decoder.image_token_id
    assert image.sum() == 2 * 3
    rows = sample.feed["position_ids"][:, 0, image] - sample.feed["position_ids"][0, 0, image][0]
    assert rows.tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


def test_the_prompt_ends_where_the_answer_begins(vl: Any, data: Path) -> None:
    sample = read_samples(vl.model, vl.manifest, data)[0]
    answer = vl.tokenizer()("the fox").input_ids
    assert sample.token_ids[sample.prompt_length :].tolist()[:-1] == answer
    assert np.flatnonzero(sample.scored)[0] == sample.prompt_length


def test_an_image_without_an_answer_is_scored_after_the_image(vl: Any, picture: Path) -> None:
    path = picture / "caption.jsonl"
    path.write_text(json.dumps({"text": "the dog", "image": "picture.png"}))
    sample = read_samples(vl.model, vl.manifest, path)[0]
    last = np.flatnonzero(sample.token_ids == vl.manifest.decoder.image_token_id)[-1]
    assert np.flatnonzero(sample.scored)[0] == last + 1
    assert sample.scored[last + 1 :].all()


@pytest.mark.parametrize("name", ["vl", "vl-no-past"])
def test_greedy_generation_from_an_image_equals_transformers(
    exports: Any, picture: Path, data: Path, name: str
) -> None:
    exported, length = exports[name], 12
    sample = read_samples(exported.model, exported.manifest, data)[0]
    prompt = sample.token_ids[: sample.prompt_length].tolist()
    expected = exported.torch_model().generate(
        **torch_inputs(exported, picture, prompt), do_sample=False, max_new_tokens=length
    )
    embedder = Embedder.beside(exported.model, exported.manifest)
    eos = frozenset(exported.manifest.decoder.eos_token_ids)
    found = generate(open_session(exported.model), embedder, sample, eos, length)
    assert found == expected[0, len(prompt) :].tolist()


def test_features_have_a_row_per_image_token(vl: Any, picture: Path) -> None:
    image = picture / "picture.png"
    features = VisionTower(vl.folder).encode([image, image])
    assert features.embeds.shape == (12, 64)
    assert features.grid_thw.tolist() == [[1, 4, 6]] * 2
    assert features.tokens == (6, 6)


def test_an_image_token_in_the_text_is_an_error(vl: Any, picture: Path) -> None:
    path = picture / "two.jsonl"
    path.write_text(json.dumps(QUESTION | {"text": "a <|image_pad|>"}))
    with pytest.raises(InputError, match="2 image tokens"):
        read_samples(vl.model, vl.manifest, path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_named_with_its_line(
    vl: Any, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "picture.png").write_bytes(content)
    (tmp_path / "a.jsonl").write_text(json.dumps(QUESTION))
    with pytest.raises(InputError, match="not a readable image") as caught:
        read_samples(vl.model, vl.manifest, tmp_path / "a.jsonl")
    assert "a.jsonl:1" in caught.value.where and "picture.png" in caught.value.where


def test_an_image_too_narrow_to_resize_is_an_error(vl: Any, tmp_path: Path) -> None:
    Image.new("RGB", (2000, 2)).save(tmp_path / "picture.png")
    (tmp_path / "a.jsonl").write_text(json.dumps(QUESTION))
    with pytest.raises(InputError, match="image processor refuses"):
        read_samples(vl.model, vl.manifest, tmp_path / "a.jsonl")


def test_an_image_for_a_text_model_is_an_error(exports: Any, data: Path) -> None:
    qwen2 = exports["qwen2"]
    with pytest.raises(InputError, match="no vision tower"):
        read_samples(qwen2.model, qwen2.manifest, data)


@pytest.mark.parametrize(
    "name", ["vision/config.json", "vision/model.safetensors", "preprocessor_config.json"]
)
def test_a_missing_or_broken_file_is_an_input_error(vl: Any, tmp_path: Path, name: str) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    (tmp_path / "out" / name).write_text("[]")
    with pytest.raises(InputError):
        VisionTower(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(InputError):
        VisionTower(tmp_path / "out")


def test_token_ids_in_the_text_config_alone_are_used(
    vl: Any, picture: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(vl.folder, tmp_path / "out")
    path = tmp_path / "out" / "vision" / "config.json"
    config = json.loads(path.read_text())
    for key in [key for key in config if key.startswith(("image_", "video_", "vision_"))]:
        if key.endswith("_token_id"):
            config["text_config"][key] = config.pop(key)
    path.write_text(json.dumps(config))
    found = read_samples(tmp_path / "out" / "model.onnx", vl.manifest, data)[0]
    expected = read_samples(vl.model, vl.manifest, data)[0]
    assert np.array_equal(found.feed["position_ids"], expected.feed["position_ids"])

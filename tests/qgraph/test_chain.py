"""The script that chains embedding, vision and decoder: what it says is what qgraph measures."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import qgraph as api
from qgraph._exporters.qwen.samples import read_samples
from qgraph._exporters.qwen.vision import VisionTower
from qgraph._graph.io.documents import read_document
from qgraph._graph.rules.finding import Target
from qgraph._sensitivity.report import Direction

TINY = Path(__file__).parents[2] / "models/qwen2_5_vl_tiny"
QUESTIONS = 12

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained tiny Qwen2.5-VL, exported in both parts, profile C quantized and bundled."""
    folder = tmp_path_factory.mktemp("chain") / "work"
    api.export(TINY / "outliers", folder)
    api.export(TINY / "outliers", folder, part="vision", image_size=(112, 112))
    _write_settings_as_the_hub_has_them(folder / "preprocessor_config.json")
    report, ranges = api.sensitivity(
        folder / "model.onnx",
        data=[TINY / "data/calibration.jsonl"],
        samples=2,
        direction=Direction.SOLO,
    )
    for made in api.quantize(folder / "model.onnx", api.profile(report), ranges, names=["C"]):
        made.save(folder)
    data = folder / "questions.jsonl"
    lines = (TINY / "data/heldout.jsonl").read_text().splitlines()[:QUESTIONS]
    shutil.copytree(TINY / "data/images", folder / "images")
    data.write_text("\n".join(lines) + "\n")
    api.handoff(folder / "C.onnx", folder / "bundle", data=[data])
    return folder


def _write_settings_as_the_hub_has_them(path: Path) -> None:
    """Leave out what Qwen2.5-VL's own file leaves to the processor's defaults."""
    settings = json.loads(path.read_text())
    for name in ("do_normalize", "do_rescale", "do_resize", "resample", "rescale_factor", "size"):
        del settings[name]
    path.write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def chain(work: Path) -> dict[str, Any]:
    return runpy.run_path(str(work / "bundle/chain.py"), run_name="chain")


def questions(work: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (work / "questions.jsonl").read_text().splitlines()]


def test_the_bundle_is_whole_and_clean(work: Path) -> None:
    assert api.verify(work / "bundle").problems == ()
    content = json.loads((work / "bundle/handoff.json").read_text())
    assert [part["path"] for part in content["parts"]] == [
        "embed_tokens.onnx",
        "vision_encoder.onnx",
    ]
    assert all(part["counts"]["error"] == 0 for part in content["lint"])
    for target in Target:
        counts = api.lint(work / "vision_encoder.onnx", target=target).counts
        assert counts["error"] == counts["warning"] == 0


def test_pixels_and_embeddings_are_those_of_the_families_own_code(
    work: Path, chain: dict[str, Any]
) -> None:
    made = chain["Chain"]()
    image = Image.open(work / questions(work)[0]["image"]).convert("RGB")
    expected, grid = VisionTower(work).pixels(image)
    found = chain["patches"](image, made.settings, made.encoder)
    # the image processor computes in float32, the script in float64
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)
    assert tuple(made.encoder["grid_thw"]) == grid


def test_prompt_and_positions_are_those_of_the_families_own_code(
    work: Path, chain: dict[str, Any]
) -> None:
    from qgraph._exporters.manifest import MANIFEST, Manifest

    manifest = read_document(work / MANIFEST, Manifest)
    sample = read_samples(work / "model.onnx", manifest, work / "questions.jsonl", limit=1)[0]
    made = chain["Chain"]()
    length = sample.prompt_length
    assert manifest.decoder is not None and manifest.decoder.image_token_id is not None
    text = chain["prompt"](questions(work)[0]["text"], chain["read"]("tokenizer_config.json"))
    tokens = made.tokenizer.encode(text, add_special_tokens=False).ids
    at = tokens.index(manifest.decoder.image_token_id)
    tokens[at : at + 1] = [tokens[at]] * made.encoder["tokens"]
    assert tokens == sample.token_ids[:length].tolist()
    found = chain["positions"](tokens, tokens[at], made.encoder["grid_thw"], 2)
    np.testing.assert_array_equal(found, sample.feed["position_ids"][..., :length])


def test_it_answers_as_often_right_as_the_evaluation_says(
    work: Path, chain: dict[str, Any]
) -> None:
    command = [sys.executable, "-m", "qgraph", "evaluate", "model.onnx", "C.onnx", "--quiet"]
    done = subprocess.run(
        [*command, "--data", "questions.jsonl", "-o", "figures.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=work,
    )
    assert done.returncode == 0, done.stderr
    variants = json.loads((work / "figures.json").read_text())["variants"]
    measured = next(v for v in variants if v["name"] == "C")["metrics"]["vqa_accuracy"]
    made = chain["Chain"]()
    right = [
        made.answer(Image.open(work / line["image"]), line["text"]).strip() == line["answer"]
        for line in questions(work)
    ]
    assert sum(right) / len(right) == pytest.approx(measured)
    assert measured > 0.8


def test_it_runs_as_a_script(work: Path) -> None:
    line = questions(work)[0]
    done = subprocess.run(
        [sys.executable, str(work / "bundle/chain.py"), str(work / line["image"]), line["text"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

"""The vision tower as a graph: what PyTorch says, for images of one size; fp16 without overflow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from qgraph._exporters.belongings import companions
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.qwen.export import export_language
from qgraph._exporters.qwen.export_vision import (
    VISION_ENCODER,
    VisionRequest,
    export_vision,
)
from qgraph._exporters.qwen.vision import VisionTower
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document
from qgraph._graph.run.session import open_session


@pytest.fixture(scope="module")
def source(checkpoints: Any) -> Path:
    path: Path = checkpoints["vl"]
    return path


def picture(folder: Path, width: int, height: int) -> Path:
    rng = np.random.default_rng(3)
    path = folder / "picture.png"
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("size", [(112, 112), (140, 84), (28, 56)])
def test_embeddings_are_pytorchs_whatever_windows_the_size_makes(
    source: Path, vl: Any, tmp_path: Path, size: tuple[int, int]
) -> None:
    export_vision(source, tmp_path / "out", VisionRequest(size))
    tower = VisionTower(vl.folder)
    image = Image.open(picture(tmp_path, size[1], size[0])).convert("RGB")
    pixels, grid = tower.pixels(image)
    session = open_session(tmp_path / "out" / VISION_ENCODER)
    found = session.run({"pixel_values": pixels.numpy()})["image_embeds"]
    expected = tower.embed(pixels, grid)
    # sums in another order, some tens of layers deep at most
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(np.abs(expected).max()))


def test_nodes_are_named_after_their_modules_and_nothing_runs_in_a_loop(
    source: Path, tmp_path: Path
) -> None:
    export_vision(source, tmp_path / "out", VisionRequest((112, 112)))
    graph = onnx.load(tmp_path / "out" / VISION_ENCODER).graph
    names = {node.name for node in graph.node}
    assert {"/blocks.0/attn/qkv/Gemm", "/blocks.1/mlp/down_proj/Gemm"} <= names
    assert not {node.op_type for node in graph.node} & {"If", "Loop", "Scan", "SplitToSequence"}
    # four windows of one length are one batch: two products a block
    products = [n for n in graph.node if n.op_type == "MatMul" and n.name.startswith("/blocks.0/")]
    assert len(products) == 2


def test_the_manifest_of_a_decoder_is_completed(source: Path, vl: Any, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(vl.folder, folder)
    before = read_document(folder / "qgraph.json", Manifest)
    made = export_vision(source, folder, VisionRequest((112, 112)))
    assert made.decoder == before.decoder and made.embed == before.embed
    assert made.vision_encoder is not None
    assert made.vision_encoder.grid_thw == (1, 8, 8) and made.vision_encoder.tokens == 16
    assert read_document(folder / "qgraph.json", Manifest) == made
    assert (folder / "model.onnx").read_bytes() == (vl.folder / "model.onnx").read_bytes()
    assert folder / VISION_ENCODER in companions(folder / "model.onnx")


def test_exporting_twice_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_vision(source, tmp_path / name, VisionRequest((56, 56)))
    a, b = (tmp_path / name / VISION_ENCODER for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


def overflowing(source: Path, folder: Path) -> Path:
    """A checkpoint whose last block's `down_proj` leaves fp16's range, as in the 3 B model."""
    shutil.copytree(source, folder)
    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    key = next(name for name in weights if name.endswith("visual.blocks.1.mlp.down_proj.weight"))
    weights[key] = weights[key] * 3e4
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def in_fp16(path: Path, pixels: Any) -> Any:
    """Run with onnx's reference, which rounds to fp16 after every node: onnxruntime does not."""
    session = onnx.reference.ReferenceEvaluator(str(path))
    feed = {"pixel_values": pixels.astype(np.float16)}
    with np.errstate(all="ignore"):
        results: Any = session.run(None, feed)
    return results[0]


def test_what_overflows_fp16_stays_fp32(source: Path, tmp_path: Path) -> None:
    checkpoint = overflowing(source, tmp_path / "checkpoint")
    request = VisionRequest((56, 56), dtype="fp16")
    made = export_vision(checkpoint, tmp_path / "out", request).vision_encoder
    assert made is not None
    assert made.float32 == ("blocks.1.mlp.down_proj", "residual stream of block 1")
    full = export_vision(checkpoint, tmp_path / "full", VisionRequest((56, 56)))
    assert full.vision_encoder is not None and full.vision_encoder.float32 == ()
    pixels = np.random.default_rng(1).standard_normal((16, 1176)).astype(np.float32)
    found = in_fp16(tmp_path / "out" / VISION_ENCODER, pixels)
    expected = open_session(tmp_path / "full" / VISION_ENCODER).run({"pixel_values": pixels})
    assert np.isfinite(found).all()
    wanted = expected["image_embeds"]
    # fp16 keeps 11 bits; some tens of roundings on the way
    assert float(np.abs(found - wanted).max()) < 0.03 * float(np.abs(wanted).max())


def test_without_that_it_would_overflow(source: Path, tmp_path: Path) -> None:
    checkpoint = overflowing(source, tmp_path / "checkpoint")
    export_language(checkpoint, tmp_path / "folder")
    tower = VisionTower(tmp_path / "folder")
    image = Image.open(picture(tmp_path, 56, 56)).convert("RGB")
    pixels, grid = tower.pixels(image)
    with torch.no_grad():
        found = tower.module.half()(pixels.half(), grid_thw=torch.tensor([list(grid)]))
    assert not bool(torch.isfinite(found).all())


@pytest.mark.parametrize("size", [(100, 112), (0, 28)])
def test_a_size_that_is_no_multiple_of_a_merged_patch_is_refused(
    source: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(UsageError, match="multiples of 28"):
        export_vision(source, tmp_path / "out", VisionRequest(size))
    assert not (tmp_path / "out").exists()


def test_a_text_model_has_no_vision_tower(checkpoints: Any, tmp_path: Path) -> None:
    kind = next(kind for kind in checkpoints if kind != "vl")
    with pytest.raises(UsageError, match="no vision tower"):
        export_vision(checkpoints[kind], tmp_path / "out", VisionRequest())

"""Tracing the vision tower and holding the graph against PyTorch (needs the `export` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from qgraph._exporters.exported import TRACED_OPSET, at_opset, compared, tracing
from qgraph._exporters.images import read_image
from qgraph._exporters.manifest import Check
from qgraph._exporters.qwen.tracing import FAILED
from qgraph._exporters.qwen.vision import VisionTower
from qgraph._exporters.qwen.vision_graph import Fp32Parts, VisionEncoderModule, find_overflow
from qgraph._graph.edit.fold import fold
from qgraph._graph.io.models import read_model
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array

INPUT, OUTPUT = "pixel_values", "image_embeds"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image: `pixels` float32 [patches, …], `grid`: (time, height, width) in patches."""

    name: str
    pixels: torch.Tensor
    grid: tuple[int, int, int]


def samples(tower: VisionTower, size: tuple[int, int], images: Sequence[Path]) -> list[Sample]:
    """Return the images at this size; noise and a gradient come first, and are always there."""
    height, width = size
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    ramp = np.linspace(0, 255, height * width * 3).astype(np.uint8).reshape(height, width, 3)
    drawn = {"noise": Image.fromarray(noise), "gradient": Image.fromarray(ramp)}
    given = {path.name: read_image(path) for path in images}
    found = []
    for name, image in (drawn | given).items():
        pixels, grid = tower.pixels(image.resize((width, height), Image.Resampling.BICUBIC))
        found.append(Sample(name, pixels, grid))
    return found


def trace(
    tower: VisionTower, images: Sequence[Sample], dtype: str, opset: int, scratch: Path
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the graph of the tower for images of this size, and what stays in fp32 of an fp16 one.

    Raises:
        InputError: the exporter cannot trace this model.
    """
    encoder = VisionEncoderModule(tower, images[0].grid, torch.float32).eval()
    parts = Fp32Parts(len(encoder.blocks), frozenset())
    if dtype == "fp16":
        parts = find_overflow(encoder, [image.pixels for image in images])
        encoder = VisionEncoderModule(tower, images[0].grid, torch.float16).eval()
        encoder.keep_fp32(parts)
    path = scratch / "traced.onnx"
    exporter: Any = torch.onnx.export
    hint = "Check that torch and transformers are the versions of qgraph[export]."
    with tracing(FAILED, hint=hint):
        exporter(
            encoder,
            (images[0].pixels.to(_DTYPES[dtype]),),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=min(opset, TRACED_OPSET),
            dynamo=False,
        )
    return _finished(path, opset), _names(parts, len(encoder.blocks))


def _finished(path: Path, opset: int) -> onnx.ModelProto:
    model = fold(at_opset(read_model(path), opset))
    model.producer_name, model.producer_version = "qgraph", ""
    return model


def _names(parts: Fp32Parts, depth: int) -> tuple[str, ...]:
    stream = [f"residual stream of block {index}" for index in range(parts.stream_from, depth)]
    return (*(f"blocks.{index}.mlp.down_proj" for index in sorted(parts.mlps)), *stream)


def check(
    model: Path, images: Sequence[Sample], expected: Sequence[Array], dtype: str
) -> tuple[Check, ...]:
    """Return the largest difference of each image's embeddings from PyTorch's in fp32.

    Raises:
        ExportMismatchError: a difference above what rounding explains, or no number at all.
    """
    session = open_session(model)
    checks = []
    for image, wanted in zip(images, expected, strict=True):
        pixels = image.pixels.to(_DTYPES[dtype]).numpy()
        found = session.run({INPUT: pixels})[OUTPUT]
        checks.append(compared(f"vision, {image.name}", found, wanted, dtype))
    return tuple(checks)

"""A small trained-looking classifier, its export, and folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from qgraph._exporters.family import ExportOptions
from qgraph._exporters.vit.export import export_classifier
from qgraph._graph.progress import silent

HF: Any = transformers
CLASSES = ("ant", "bee", "cat")


def save_checkpoint(folder: Path, size: int = 16) -> Path:
    """Write a ViT of two layers with its image processor."""
    torch.manual_seed(0)
    config = HF.ViTConfig(
        image_size=size,
        patch_size=4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
        initializer_range=0.2,
    )
    HF.ViTForImageClassification(config).save_pretrained(folder, safe_serialization=True)
    HF.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def save_pictures(folder: Path, each: int = 2) -> Path:
    """Write `CLASS/*.png` of noise."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = generator.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("vit") / "checkpoint")


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit") / "exported"
    export_classifier(checkpoint, folder, ExportOptions(), silent)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "pictures")

"""Images for a Qwen2.5-VL decoder: their embeddings and positions (needs the `export` extra).

Runs the vision tower of an exported folder in float32 on the CPU. The image processor is used
alone: the model's full processor also loads a video part, which needs torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig
from transformers.modeling_utils import no_init_weights
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLModel,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from qgraph._exporters.checkpoint_folder import read_config
from qgraph._exporters.images import read_image
from qgraph._exporters.quiet import quiet
from qgraph._exporters.qwen.checkpoint import restore_token_ids
from qgraph._exporters.qwen.source import vision_token_ids
from qgraph._graph.errors import InputError
from qgraph._graph.io.files import require_file
from qgraph._graph.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class ImageFeatures:
    """`embeds`: float32 [N,H], one row per image token. `grid_thw`: int64 [images,3], in patches.

    `tokens`: how many of the N rows each image has.
    """

    embeds: Array
    grid_thw: Array
    tokens: tuple[int, ...]


class VisionTower:
    """The vision tower of an exported folder, with its image processor.

    Raises:
        InputError: a file is missing, broken, or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        with quiet():
            self._config = _load_config(folder / "vision" / "config.json")
            self._processor = _load_processor(folder)
            self._tower = _load_tower(self._config.vision_config, folder / "vision")
            # Positions need the model's method and config only; on `meta` no weight is made.
            with torch.device("meta"):
                make: Any = Qwen2_5_VLModel
                self._model = make(self._config)

    def encode(self, images: Sequence[Path]) -> ImageFeatures:
        """Return the embeddings of image files, in their order.

        Raises:
            InputError: a file is no image, or one too large or too narrow.
        """
        try:
            pixels = self._processor(
                images=[read_image(path) for path in images], return_tensors="pt"
            )
        except ValueError as error:
            raise InputError(
                f"the image processor refuses: {error}", where=str(images[0])
            ) from error
        grid = pixels["image_grid_thw"]
        with torch.no_grad():
            embeds = self._tower(pixels["pixel_values"].float(), grid_thw=grid)
        merged = self._config.vision_config.spatial_merge_size**2
        counts = (grid.prod(dim=1) // merged).tolist()
        return ImageFeatures(embeds.numpy(), grid.numpy(), tuple(int(count) for count in counts))

    @property
    def module(self) -> Any:
        return self._tower

    def pixels(self, image: Image.Image) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Return the patches of an image, float32 [patches, …], and its grid, the size kept."""
        made = self._processor(images=[image], return_tensors="pt", do_resize=False)
        time, height, width = made["image_grid_thw"][0].tolist()
        return made["pixel_values"].float(), (time, height, width)

    def embed(self, pixels: torch.Tensor, grid: tuple[int, int, int]) -> Array:
        """Return the embeddings float32 [N,H] of an image's patches."""
        with torch.no_grad():
            embeds = self._tower(pixels, grid_thw=torch.tensor([list(grid)]))
        array: Array = embeds.numpy()
        return array

    def positions(self, token_ids: Array, grid_thw: Array) -> Array:
        """Return position_ids int64 [3,B,S] of `token_ids` int64 [B,S] with the images in them.

        Raises:
            InputError: the image tokens do not match the grids.
        """
        grids = torch.from_numpy(grid_thw)
        try:
            positions, _ = self._model.get_rope_index(torch.from_numpy(token_ids), grids)
        except (RuntimeError, IndexError) as error:
            raise InputError(f"the tokens do not hold the images they should: {error}") from error
        array: Array = positions.numpy()
        return array


def _load_config(path: Path) -> Any:
    content = read_config(path)
    try:
        config = Qwen2_5_VLConfig.from_dict(content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"not a Qwen2.5-VL config: {error}", where=str(path)) from error
    restore_token_ids(config, vision_token_ids(content))
    return config


def _load_processor(folder: Path) -> Any:
    path = require_file(folder / "preprocessor_config.json", "image processor's settings")
    try:
        return Qwen2VLImageProcessor.from_dict(read_config(path))
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"not an image processor's settings: {error}", where=str(path)) from error


def _load_tower(config: Any, folder: Path) -> Any:
    path = require_file(folder / "model.safetensors", "vision tower's weights")
    with no_init_weights():  # they are all read from the file
        tower = Qwen2_5_VisionTransformerPretrainedModel(config)
    try:
        tower.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise InputError(
            f"the vision tower's weights cannot be used: {error}",
            where=str(path),
            hint="Export the checkpoint again.",
        ) from error
    return tower.eval().requires_grad_(requires_grad=False)

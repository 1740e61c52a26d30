"""A checkpoint's image processor: what its `preprocessor_config.json` says, with Pillow and NumPy.

The steps are those of transformers' processors of the same names (4.57), to the bit, without
loading transformers or torch, which tests hold them against:

| type        | resized to                                              | cropped        |
|-------------|---------------------------------------------------------|----------------|
| ViT         | height × width                                          | no             |
| DeiT        | height × width                                          | `crop_size`    |
| Bit         | shortest edge                                           | `crop_size`    |
| MobileNetV1 | shortest edge                                           | `crop_size`    |
| MobileNetV2 | shortest edge                                           | `crop_size`    |
| ConvNext    | shortest edge / `crop_pct`; from 384 on exactly, square | to the edge    |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qgraph._exporters.checkpoint_folder import read_config
from qgraph._exporters.images import as_array, require_pixels
from qgraph._exporters.preprocessing import Preprocessing, Resize, interpolation
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array

if TYPE_CHECKING:
    from PIL import Image

CONFIG = "preprocessor_config.json"
_TYPES = ("ViT", "DeiT", "Bit", "MobileNetV1", "MobileNetV2", "ConvNext")
_UNCROPPED_FROM = 384
_LARGEST_SIDE = 10_000
"""Pixels. A square of it has as many as an image that is read may have."""
BILINEAR, _BICUBIC = 2, 3
_Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """`exact`: (height, width) to resize to, else `shortest` edge, else neither. `crop`: (height,
    width) cut from the middle. `scale`: of pixel values; `mean`, `std`: per channel, after it.
    `gray`: whether color is left out first.

    Raises:
        ValueError: sides are not from 1 to 10,000, or numbers are no use: a scale or std of 0.
    """

    exact: _Size | None
    shortest: int | None
    crop: _Size | None
    resample: int
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    gray: bool = False

    def __post_init__(self) -> None:
        sides = {"size": self.exact, "shortest": (self.shortest,), "crop": self.crop}
        for name, values in sides.items():
            for side in values or ():
                if side is not None and not 1 <= side <= _LARGEST_SIDE:
                    raise ValueError(f"{name} is {side}, expected 1 to {_LARGEST_SIDE:,} pixels")
        if not all(map(isfinite, self.mean or ())):
            raise ValueError(f"mean is {self.mean}, expected finite numbers")
        for name, numbers in {"std": self.std or (), "scale": (self.scale,)}.items():
            for value in numbers:
                if value is not None and not (isfinite(value) and value > 0):
                    raise ValueError(f"{name} is {value}, expected a number above 0")

    def __call__(self, image: Image.Image) -> Array:
        """Return float32 [C,H,W] of an RGB image; C is 1 for models that see no color.

        Raises:
            LimitError: resized it would have more than 100 million pixels.
        """
        # Pillow is loaded already, as there is an image
        from PIL import Image as Pillow

        image = image.convert("L") if self.gray else image
        size = self._size_for(image.height, image.width)
        if size is not None:
            require_pixels(*size)
            image = image.resize(size[::-1], Pillow.Resampling(self.resample))
        pixels = as_array(image)
        pixels = pixels[..., None] if self.gray else pixels
        pixels = pixels if self.crop is None else _cropped(pixels, self.crop)
        scaled = pixels.astype(np.float32)
        if self.scale is not None:
            scaled = (pixels.astype(np.float64) * self.scale).astype(np.float32)
        if self.mean is not None and self.std is not None:
            scaled = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def described(self, name: str, source: str = CONFIG) -> Preprocessing:
        """Return the same as data, for the input called `name`."""
        edge = self.shortest is not None
        resized = self.shortest is not None or self.exact is not None
        return Preprocessing(
            input=name,
            source=source,
            resize=(Resize.SHORTEST_EDGE if edge else Resize.EXACT) if resized else None,
            size=(self.shortest,) if self.shortest is not None else self.exact or (),
            interpolation=interpolation(self.resample) if resized else None,
            crop=self.crop,
            scale=self.scale,
            mean=self.mean,
            std=self.std,
            channels=1 if self.gray else None,
        )

    def _size_for(self, height: int, width: int) -> _Size | None:
        if self.shortest is None:
            return self.exact
        short, long = min(height, width), max(height, width)
        other = int(self.shortest * long / short)
        return (other, self.shortest) if width <= height else (self.shortest, other)


def read_processor(path: Path) -> ImageProcessor:
    """Return the processor that a `preprocessor_config.json` describes.

    Raises:
        InputError: no such file, or a type or setting that is not known here.
    """
    config = read_config(path)
    try:
        return _from(config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be used: {error}",
            where=str(path),
            hint="Give the images as arrays instead, in an .npz file.",
        ) from error


def _from(config: Mapping[str, Any]) -> ImageProcessor:
    kind = _kind(config)
    exact, shortest, crop = _SIZES.get(kind, _with_crop)(config)
    if not config.get("do_resize", True):
        exact = shortest = None
    normalize = config.get("do_normalize", True)
    return ImageProcessor(
        exact=exact,
        shortest=shortest,
        crop=crop,
        resample=int(config.get("resample", _BICUBIC if kind in ("DeiT", "Bit") else BILINEAR)),
        scale=float(config.get("rescale_factor", 1 / 255))
        if config.get("do_rescale", True)
        else None,
        mean=tuple(map(float, config["image_mean"])) if normalize else None,
        std=tuple(map(float, config["image_std"])) if normalize else None,
    )


def _kind(config: Mapping[str, Any]) -> str:
    """Return which of `_TYPES` it is; older files name a feature extractor instead."""
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    kind = name.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _TYPES:
        raise ValueError(
            f"found an image processor of type {name}, expected one of"
            f" {', '.join(f'{item}ImageProcessor' for item in _TYPES)}"
        )
    return kind


def _squared(size: Any) -> _Size:
    """Return (height, width); one number stands for both."""
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])


def _shortest(size: Any) -> int:
    return int(size if isinstance(size, int) else size["shortest_edge"])


def _with_crop(config: Mapping[str, Any]) -> tuple[_Size | None, int | None, _Size | None]:
    crop = _squared(config["crop_size"]) if config.get("do_center_crop", True) else None
    size = config["size"]
    by_edge = isinstance(size, int) or "shortest_edge" in size
    return (None, _shortest(size), crop) if by_edge else (_squared(size), None, crop)


def _deit(config: Mapping[str, Any]) -> tuple[_Size | None, int | None, _Size | None]:
    crop = _squared(config["crop_size"]) if config.get("do_center_crop", True) else None
    return _squared(config["size"]), None, crop


def _convnext(config: Mapping[str, Any]) -> tuple[_Size | None, int | None, _Size | None]:
    if not config.get("do_resize", True):  # what crops is its resizing
        return None, None, None
    edge = _shortest(config["size"])
    if edge >= _UNCROPPED_FROM:
        return (edge, edge), None, None
    return None, int(edge / float(config.get("crop_pct") or 224 / 256)), (edge, edge)


_SIZES = {
    "ViT": lambda config: (_squared(config["size"]), None, None),
    "DeiT": _deit,
    "ConvNext": _convnext,
}


def _cropped(pixels: Array, size: _Size) -> Array:
    """Return the middle of uint8 [H,W,C]; what is too small is set in black first."""
    height, width = pixels.shape[:2]
    pads = [
        (max(0, want - have) + 1) // 2 for want, have in zip(size, (height, width), strict=True)
    ]
    grown = (max(size[0], height), max(size[1], width))
    framed = np.zeros((*grown, pixels.shape[2]), pixels.dtype)
    framed[pads[0] : pads[0] + height, pads[1] : pads[1] + width] = pixels
    tops = [
        (have - want) // 2 + pad
        for want, have, pad in zip(size, (height, width), pads, strict=True)
    ]
    top, left = max(0, tops[0]), max(0, tops[1])
    return framed[top : top + size[0], left : left + size[1]]

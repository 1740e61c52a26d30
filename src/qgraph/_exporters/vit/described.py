"""`--preprocess`: how a picture becomes an input, in the words of a person, without a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from qgraph._exporters.vit.processor import BILINEAR, ImageProcessor
from qgraph._graph.errors import UsageError
from qgraph._graph.tensors import TensorSpec

EXAMPLE = "mean=0.485,0.456,0.406 std=0.229,0.224,0.225 shortest=256 crop=224"
_KEYS = ("mean", "std", "scale", "size", "shortest", "crop")
_PART = re.compile(r"(?<!\S)([a-z]+)=(\S+)")


def described_processor(text: str, spec: TensorSpec) -> ImageProcessor:
    """Return the processor that `text` describes, as in `EXAMPLE`, for the input `spec`.

    `mean`, `std`: of values from 0 to 1, one for all channels or one each; `scale`: what 8 bits are
    multiplied by, 1/255 if nobody says otherwise; `size`: H×W that pictures are resized to, or
    `shortest`: their shorter edge; `crop`: from the middle. The model's own size is the default.

    Raises:
        UsageError: it cannot be read, or makes another shape than the input has.
    """
    parts: dict[str, str] = dict(_PART.findall(text))
    if len(parts) != len(text.split()) or not parts.keys() <= set(_KEYS) or not parts:
        raise _unreadable(text, f"expected each of {', '.join(_KEYS)} once at most")
    channels = int(spec.shape[1])
    try:
        return _described(parts, channels, spec.shape[2:])
    except ValueError as error:
        raise _unreadable(text, str(error)) from error


def _described(parts: Mapping[str, str], channels: int, own: Sequence[int | str]) -> ImageProcessor:
    mean, std = (_numbers(key, parts.get(key), channels) for key in ("mean", "std"))
    size, crop = (_sides(key, parts[key]) if key in parts else None for key in ("size", "crop"))
    shortest = int(parts["shortest"]) if "shortest" in parts else None
    if size is not None and shortest is not None:
        raise ValueError("size and shortest exclude each other")
    height, width = own
    if size is None and shortest is None and isinstance(height, int) and isinstance(width, int):
        size = (height, width)
    return ImageProcessor(
        exact=size,
        shortest=shortest,
        crop=crop,
        resample=BILINEAR,
        scale=float(parts.get("scale", 1 / 255)),
        mean=mean or (0.0,) * channels if std else mean,
        std=std or (1.0,) * channels if mean else std,
        gray=channels == 1,
    )


def _unreadable(text: str, why: str) -> UsageError:
    return UsageError(
        f"--preprocess {text!r} cannot be read: {why}",
        hint=f"Write {', '.join(_KEYS)}, as in {EXAMPLE!r}: numbers with commas, a mean for all"
        " channels or one each.",
    )


def _numbers(key: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    found = tuple(map(float, text.split(",")))
    if len(found) not in (1, channels):
        raise ValueError(f"found {len(found)} numbers for {key}, expected 1 or {channels}")
    return found * channels if len(found) == 1 else found


def _sides(key: str, text: str) -> tuple[int, int]:
    sides = [int(side) for side in re.split("[x×]", text)]
    if len(sides) > 2:
        raise ValueError(f"found {len(sides)} sides for {key}, expected 1 or 2")
    return sides[0], sides[-1]

"""Image files as arrays (needs Pillow, of the extras `export` and `vision`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qgraph._graph.errors import InputError, LimitError, loading
from qgraph._graph.io.files import require_file
from qgraph._graph.tensors import Array

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_MOST_PIXELS = 100_000_000


def images_in(folder: Path) -> list[Path]:
    """Return the files in `folder` and below it that have the name of an image, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def read_image(path: Path) -> Image.Image:
    """Return the image in `path` as RGB.

    Raises:
        EnvironmentFault: Pillow is not installed.
        InputError: nothing is there, no image, or a damaged one.
        LimitError: it has more than 100 million pixels.
    """
    with loading("vision", "reading images"):
        # Pillow comes with an extra; the core works without it
        from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # a limit of our own is checked below, before anything is decoded
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(require_file(path, "image")) as opened:
                require_pixels(opened.height, opened.width, path)
                return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"not a readable image: {error}", where=str(path)) from error
    except Image.DecompressionBombError as error:
        raise LimitError(str(error), where=str(path)) from error


def require_pixels(height: int, width: int, path: Path | None = None) -> None:
    """Check that an image, read from `path` or resized, is no larger than is worked on.

    Raises:
        LimitError: it has more than 100 million pixels.
    """
    if width * height > _MOST_PIXELS:
        raise LimitError(
            f"the image {'would have' if path is None else 'has'} {width}×{height} pixels, more"
            f" than {_MOST_PIXELS:,}",
            where="" if path is None else str(path),
        )


def as_array(image: Image.Image) -> Array:
    """Return uint8 [H,W,3]."""
    return np.asarray(image)

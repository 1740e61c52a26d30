"""scikit-learn's 8x8 digits as folders of images, one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

CLASSES = tuple("0123456789")
HELDOUT_SHARE = 0.2
CALIBRATION = 64


@dataclass(frozen=True)
class Pictures:
    """`pixels`: uint8 [n,8,8] (0..255), `labels`: int64 [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Pictures:
        """Return the pictures at the given row numbers int [m]."""
        return Pictures(self.pixels[rows], self.labels[rows])


def load_splits(seed: int = 0) -> tuple[Pictures, Pictures]:
    """Return training pictures and held-out pictures; none is in both."""
    bunch: Any = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    every = Pictures(pixels, bunch.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(every.labels))
    cut = int(len(order) * HELDOUT_SHARE)
    return every.take(order[cut:]), every.take(order[:cut])


def write_folders(folder: Path, seed: int = 0) -> None:
    """Write `calibration/CLASS/*.png` (from training) and `heldout/CLASS/*.png`."""
    train, heldout = load_splits(seed)
    _write(folder / "calibration", train.take(np.arange(CALIBRATION)))
    _write(folder / "heldout", heldout)


def _write(folder: Path, pictures: Pictures) -> None:
    for number, (pixels, label) in enumerate(zip(pictures.pixels, pictures.labels, strict=True)):
        path = folder / CLASSES[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, optimize=True)

"""Scenes to detect digits in, composed from the 8x8 digits that ship with scikit-learn.

A scene is a background with gradients and clutter, one to six digits of different size, tilt, ink
and contrast, and noise over all of it. Digits of training and held-out scenes are disjoint.
Everything follows from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

SIDE = 128
CLASSES = tuple("0123456789")
HELDOUT_SHARE = 0.2
SMALLEST, LARGEST = 20, 60
MOST = 6
_INK = 0.3
"""Where the ink of a digit begins, as a share of its darkest: what its box goes around."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Digits:
    """Ink float32 [n, 8, 8] (0..1) with classes int64 [n]."""

    ink: Pixels
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """`pixels`: uint8 [128,128,3]; `boxes`: float32 [n,4], left, top, right, bottom in pixels;
    `labels`: int64 [n].
    """

    pixels: NDArray[np.uint8]
    boxes: Pixels
    labels: NDArray[np.int64]


def load_splits(seed: int = 0) -> tuple[Digits, Digits]:
    """Return training digits and held-out digits; no picture is in both."""
    bunch: Any = load_digits()
    ink = (bunch.images / 16).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(ink))
    cut = int(len(order) * HELDOUT_SHARE)
    heldout, train = order[:cut], order[cut:]
    labels = bunch.target.astype(np.int64)
    return Digits(ink[train], labels[train]), Digits(ink[heldout], labels[heldout])


def compose(digits: Digits, rng: np.random.Generator) -> Scene:
    """Return one scene of one to six digits drawn at random."""
    canvas, light = _background(rng)
    boxes: list[tuple[float, float, float, float]] = []
    labels = []
    for _ in range(int(rng.integers(1, MOST + 1))):
        index = int(rng.integers(len(digits.labels)))
        alpha = _drawn(digits.ink[index], rng)
        placed = _place(alpha, boxes, rng)
        if placed is None:
            continue
        left, top, box = placed
        _paint(canvas, alpha, left, top, _ink_colour(light, rng))
        boxes.append(box)
        labels.append(digits.labels[index])
    canvas += rng.normal(0, rng.uniform(0, 0.06), canvas.shape).astype(np.float32)
    pixels = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
    return Scene(pixels, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def _background(rng: np.random.Generator) -> tuple[Pixels, float]:
    """Return float32 [128,128,3] with gradients and clutter, and how light it is on the whole."""
    light = rng.uniform(0.1, 0.9)
    base = np.clip(light + rng.normal(0, 0.06, 3), 0, 1)
    blotches = rng.normal(0, 0.06, (5, 5)).astype(np.float32)
    wide = Image.fromarray(blotches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    canvas = base[None, None] + np.asarray(wide)[..., None]
    picture = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    _clutter(ImageDraw.Draw(picture), light, rng)
    return np.asarray(picture).astype(np.float32) / 255, light


def _clutter(draw: ImageDraw.ImageDraw, light: float, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(0, 7))):
        shade = np.clip(light + rng.uniform(-0.3, 0.3) + rng.normal(0, 0.05, 3), 0, 1)
        colour = tuple(int(value * 255) for value in shade)
        x0, y0 = rng.uniform(-20, SIDE, 2)
        x1, y1 = x0 + rng.uniform(5, 70), y0 + rng.uniform(5, 70)
        width = int(rng.integers(1, 4))
        kind = int(rng.integers(3))
        if kind == 0:
            draw.line([x0, y0, x1, SIDE - y1], fill=colour, width=width)
        elif kind == 1:
            draw.rectangle([x0, y0, x1, y1], outline=colour, width=width)
        else:
            draw.ellipse([x0, y0, x1, y1], outline=colour, width=width)


def _drawn(ink: Pixels, rng: np.random.Generator) -> Pixels:
    """Return one digit's opacity float32 [s,s], scaled and tilted."""
    side = int(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    framed = np.pad(ink, 1)
    picture = Image.fromarray(framed).resize((side, side), Image.Resampling.BICUBIC)
    tilted = picture.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(tilted), 0, 1)


def _place(
    alpha: Pixels, boxes: list[tuple[float, float, float, float]], rng: np.random.Generator
) -> tuple[int, int, tuple[float, float, float, float]] | None:
    """Return where a digit goes so that its box hardly touches another's, or None."""
    rows, columns = (np.flatnonzero((alpha > _INK).any(axis)) for axis in (1, 0))
    side = len(alpha)
    for _ in range(12):
        left, top = (int(value) for value in rng.integers(0, SIDE - side + 1, 2))
        box = (
            float(left + columns[0]), float(top + rows[0]),
            float(left + columns[-1] + 1), float(top + rows[-1] + 1),
        )  # fmt: skip
        if all(_overlap(box, other) < 0.05 for other in boxes):
            return left, top, box
    return None


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the share of the smaller box that the two have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return max(width, 0) * max(height, 0) / min(areas)


def _ink_colour(light: float, rng: np.random.Generator) -> Pixels:
    """Return a colour at least 0.35 lighter or darker than the background."""
    choices = [(0.0, light - 0.35), (light + 0.35, 1.0)]
    low, high = max(choices, key=lambda c: (c[1] - c[0]) * rng.uniform(0.5, 1))
    shade = rng.uniform(low, high) + rng.normal(0, 0.04, 3)
    return np.clip(shade, 0, 1).astype(np.float32)


def _paint(canvas: Pixels, alpha: Pixels, left: int, top: int, colour: Pixels) -> None:
    side = len(alpha)
    part = canvas[top : top + side, left : left + side]
    part += alpha[..., None] * (colour - part)

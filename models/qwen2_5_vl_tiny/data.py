"""Texts, pictures and questions, taken only from data that ships with packages.

The texts are the paragraphs of CPython's ``pydoc_data.topics``; the pictures are the 8x8
digits of scikit-learn, drawn at 112x112 pixels.  Everything follows from the seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 112
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WHICH = ("Which digit is this?", "What digit do you see?")
PARITY = "Is this digit even or odd?"
LARGER = "Is this digit larger than five?"
NEXT = "Which number comes after this digit?"
QUESTIONS = (*WHICH, PARITY, LARGER, NEXT)
WEIGHTS = (0.35, 0.2, 0.15, 0.15, 0.15)
HELDOUT_TEXT_SHARE = 0.1
HELDOUT_DIGIT_SHARE = 0.2


@dataclass(frozen=True)
class Texts:
    """One list of sentences per topic, for each split; no sentence is in both splits."""

    train: list[list[str]]
    heldout: list[list[str]]


@dataclass(frozen=True)
class Digits:
    """Pictures uint8 [n, 8, 8] (0..255) with their classes int [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Digits:
        """The subset at the given row numbers int [m]."""
        return Digits(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True)
class Item:
    """One question about one picture."""

    text: str
    answer: str
    image: Image.Image


def _is_prose(paragraph: str) -> bool:
    """True for English prose, False for headings, grammar rules and code."""
    plain = sum(c.isalpha() or c in " ,.'" for c in paragraph)
    return len(paragraph) >= 60 and plain >= 0.88 * len(paragraph) and "::=" not in paragraph


def _sentences(topic: str) -> list[str]:
    """The sentences of a topic's prose, white space collapsed, in order."""
    blocks = (" ".join(block.split()) for block in topics[topic].split("\n\n"))
    found: list[str] = []
    for block in filter(_is_prose, blocks):
        found += [s for s in re.split(r"(?<=[.:;]) (?=[A-Z\"“(])", block) if s]
    return found


def _heldout_topics(seed: int) -> set[str]:
    """Whole topics holding about a tenth of all characters; none of the few giant ones."""
    total = sum(map(len, topics.values()))
    names = sorted(n for n in topics if len(topics[n]) < 0.03 * total)
    np.random.default_rng(seed).shuffle(names)
    chosen: set[str] = set()
    while sum(len(topics[n]) for n in chosen) < HELDOUT_TEXT_SHARE * total:
        chosen.add(names.pop())
    return chosen


def _without(topic: list[str], seen: set[str]) -> list[str]:
    """The sentences not yet in ``seen``, which grows by them."""
    kept = [s for s in dict.fromkeys(topic) if s not in seen]
    seen.update(kept)
    return kept


def load_texts(seed: int) -> Texts:
    """Both text splits.  Topics quote each other, hence the sentence-level removal."""
    away = _heldout_topics(seed)
    seen: set[str] = set()
    heldout = [_without(_sentences(n), seen) for n in sorted(away)]
    train = [_without(_sentences(n), seen) for n in sorted(topics) if n not in away]
    return Texts([t for t in train if t], [t for t in heldout if t])


def passages(sentences: list[str], count: Callable[[str], int], low: int, high: int) -> list[str]:
    """Runs of whole sentences of ``low`` to ``high`` tokens, one string per run."""
    found: list[str] = []
    current = ""
    for sentence in sentences:
        longer = f"{current} {sentence}".strip()
        if count(longer) <= high:
            current = longer
            continue
        found.append(current)
        current = sentence
    return [p for p in [*found, current] if low <= count(p) <= high]


def load_splits(seed: int) -> tuple[Digits, Digits]:
    """Training digits and held-out digits; no picture is in both."""
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    every = Digits(pixels, bunch.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(every.labels))
    cut = int(len(order) * HELDOUT_DIGIT_SHARE)
    return every.take(order[cut:]), every.take(order[:cut])


def draw(pixels: NDArray[np.uint8]) -> Image.Image:
    """An 8x8 digit as a 112x112 grayscale picture of 64 patches."""
    picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    # 32 gray levels instead of 256 halve the size of the PNG file
    return picture.point([v & 0xF8 for v in range(256)])


def jitter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A slightly turned, scaled and shifted copy, for training only."""
    angle, scale = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(0.9, 1.12)
    dx, dy = rng.uniform(-7, 7, size=2)
    c, s, mid = np.cos(angle) * scale, np.sin(angle) * scale, SIDE / 2
    matrix = (c, -s, mid - c * mid + s * mid + dx, s, c, mid - s * mid - c * mid + dy)
    return picture.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )


def answer(question: str, digit: int) -> str:
    """The one right answer, a single lower-case word."""
    if question == PARITY:
        return "odd" if digit % 2 else "even"
    if question == LARGER:
        return "yes" if digit > 5 else "no"
    return NAMES[digit + 1] if question == NEXT else NAMES[digit]


def items(digits: Digits, rng: np.random.Generator) -> Iterator[Item]:
    """One undistorted picture with one random question per digit, in order."""
    for pixels, label in zip(digits.pixels, digits.labels, strict=True):
        text = str(rng.choice(QUESTIONS, p=WEIGHTS))
        yield Item(text, answer(text, int(label)), draw(pixels))


def _write_items(folder: Path, name: str, rows: list[Item]) -> None:
    """``<name>.jsonl`` and its pictures."""
    lines = []
    for number, item in enumerate(rows):
        path = f"images/{name}_{number:03d}.png"
        item.image.save(folder / path, optimize=True)
        lines.append(json.dumps({"text": item.text, "image": path, "answer": item.answer}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _spread(rows: list[str], wanted: int) -> list[str]:
    """``wanted`` rows taken evenly over the list, so that all topics have a share."""
    picks = np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int)
    return [rows[i] for i in picks]


def write_demo(folder: Path, count: Callable[[str], int], seed: int) -> None:
    """Everything in ``data/``: calibration from the training splits, the rest held out."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    texts, rng = load_texts(seed), np.random.default_rng(seed + 1)
    for name, split, wanted in (("calibration", texts.train, 32), ("heldout", texts.heldout, 48)):
        rows = [p for topic in split for p in passages(topic, count, 60, 120)]
        text = "\n".join(_spread(rows, wanted)) + "\n"
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    for name, digits, wanted in zip(
        ("calibration", "heldout"), load_splits(seed), (32, 100), strict=True
    ):
        _write_items(folder, name, list(items(digits.take(np.arange(wanted)), rng)))

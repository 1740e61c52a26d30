"""What real models are fed: photos, rendered text, spoken sentences with pauses, played notes.

Pictures, fonts and the voice come from packages that `subjects.py` installs; nothing of
them is imported. What is spoken and written are the texts that the shipped decoder is tested on.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qgraph._graph.tensors import Array

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "models/qwen2_5_vl_tiny/data"
RATE = 16000
_FONTS = "matplotlib/mpl-data/fonts/ttf"
_PARTS = {
    "calibration": ("DejaVuSans", "DejaVuSerif"),
    "heldout": ("DejaVuSans-Bold", "DejaVuSansMono"),
}


def sentences(part: str) -> list[str]:
    """Return sentences of plain words; `part`: calibration or heldout."""
    text = (TEXTS / f"{part}.txt").read_text(encoding="utf-8")
    found = [" ".join(re.findall(r"[A-Za-z]+", item)) for item in re.split(r"[.:;(),]\s", text)]
    return [item for item in found if 20 < len(item) < 80]


def photos(packages: Path, part: str) -> Iterator[Image.Image]:
    """Yield cut-outs of photos, some with people; no photo is in both parts."""
    names = {
        "calibration": ("matplotlib/mpl-data/sample_data/grace_hopper.jpg",
                        "skimage/data/coffee.png", "skimage/data/chelsea.png",
                        "skimage/data/rocket.jpg"),
        "heldout": ("skimage/data/astronaut.png", "skimage/data/motorcycle_left.png"),
    }[part]  # fmt: skip
    draw = np.random.default_rng(len(part))
    for _ in range(6):
        for name in names:
            whole = Image.open(packages / name).convert("RGB")
            size = int(min(whole.size) * draw.uniform(0.6, 1))
            left, top = (int(draw.integers(0, side - size + 1)) for side in whole.size)
            yield whole.crop((left, top, left + size, top + size))


def fonts(packages: Path, part: str, size: int) -> list[Any]:
    """Return the fonts of a part."""
    folder = packages / _FONTS
    return [ImageFont.truetype(str(folder / f"{name}.ttf"), size) for name in _PARTS[part]]


def pages(packages: Path, part: str, count: int) -> Iterator[Image.Image]:
    """Yield pages of 640 × 480 with lines of text in several sizes."""
    draw, lines = np.random.default_rng(3), sentences(part)
    for index in range(count):
        paper = tuple(int(value) for value in draw.integers(200, 256, 3))
        page = Image.new("RGB", (640, 480), paper)
        pen, top = ImageDraw.Draw(page), 20
        while top < 420:
            size = int(draw.integers(14, 34))
            font = fonts(packages, part, size)[index % 2]
            text = str(draw.choice(lines))[: int(560 / size * 1.6)]
            pen.text((int(draw.integers(10, 60)), top), text, fill=(20, 20, 40), font=font)
            top += int(size * draw.uniform(1.6, 3))
        yield page


def lines(packages: Path, part: str, count: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield single lines of text, 48 pixels high, with what stands in them."""
    draw, found = np.random.default_rng(4), sentences(part)
    for index in range(count):
        words = str(draw.choice(found)).split()
        text = " ".join(words[:2])[:22]
        font = fonts(packages, part, int(draw.integers(22, 30)))[index % 2]
        width = int(font.getlength(text)) + 16
        image = Image.new("RGB", (width, 48), tuple(int(v) for v in draw.integers(190, 256, 3)))
        ImageDraw.Draw(image).text((8, 6), text, fill=(30, 20, 20), font=font)
        yield image, text


def notes(count: int, rate: int, samples: int, seed: int) -> Iterator[Array]:
    """Yield float32 [samples] of chords whose harmonics fade."""
    draw, time = np.random.default_rng(seed), np.arange(samples) / rate
    for _ in range(count):
        sound = np.zeros(samples)
        for start in np.arange(0, time[-1], draw.uniform(0.25, 0.6)):
            for pitch in draw.choice(np.arange(40, 80), int(draw.integers(1, 4)), replace=False):
                since = time - start
                envelope = np.where(since >= 0, np.exp(-3 * np.maximum(since, 0)), 0)
                base = 440 * 2 ** ((pitch - 69) / 12)
                for harmonic in range(1, 6):
                    sound += envelope * np.sin(2 * np.pi * base * harmonic * since) / harmonic**1.5
        sound += draw.normal(0, 0.002, samples)
        yield (0.5 * sound / np.abs(sound).max()).astype(np.float32)


class Voice:
    """eSpeak NG, as its package brings it: a library and its data."""

    def __init__(self, packages: Path) -> None:
        folder = packages / "espeakng_loader"
        self._library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        data = str(folder / "espeak-ng-data").encode()
        # 2: the sound is handed to a callback before the call returns
        self.rate = self._library.espeak_Initialize(2, 0, data, 0)
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._heard: list[Array] = []
        self._callback = kind(self._hear)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str) -> Array:
        """Return float32 samples at 16 kHz."""
        self._heard.clear()
        self._library.espeak_SetVoiceByName(voice.encode())
        words = text.encode() + b"\0"
        self._library.espeak_Synth(words, len(words), 0, 1, 0, 1, None, None)
        self._library.espeak_Synchronize()
        spoken = np.concatenate(self._heard).astype(np.float32) / 32768
        at = np.arange(0, len(spoken) - 1, self.rate / RATE)
        return np.interp(at, np.arange(len(spoken)), spoken).astype(np.float32)

    def _hear(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            self._heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def speech(packages: Path, part: str, seconds: float) -> Array:
    """Return float32 at 16 kHz: sentences, pauses between them, noise under all."""
    voice, draw = Voice(packages), np.random.default_rng(len(part))
    voices = {"calibration": ("en-us", "en-gb"), "heldout": ("en-gb-scotland", "en-us+f3")}[part]
    pieces: list[Array] = []
    for index, text in enumerate(sentences(part)):
        if sum(map(len, pieces)) > seconds * RATE:
            break
        pieces.append(voice.say(text, voices[index % 2]) * np.float32(draw.uniform(0.3, 1)))
        pieces.append(np.zeros(int(draw.uniform(0.4, 2) * RATE), np.float32))
    sound = np.concatenate(pieces)[: int(seconds * RATE)]
    loud = 0.003 + 0.02 * (np.sin(np.arange(len(sound)) / RATE) > 0.5)
    return (sound + draw.normal(0, 1, len(sound)) * loud).astype(np.float32)

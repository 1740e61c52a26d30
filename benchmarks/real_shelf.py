"""Real models that packages ship, what they are fed, and what shows that they still work.

None of the files is in this repository; `subjects.py` installs the packages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image
from real_inputs import RATE, lines, notes, pages, photos, speech

from qgraph._graph.tensors import Array, Feed

Run = Callable[[Feed], list[Array]]
Answers = list[Any]
CALIBRATION, HELDOUT, MORE = 8, 16, 40
PACKAGES = (
    "nudenet==3.4.2",
    "rapidocr-onnxruntime==1.4.4",
    "rapidocr==3.10.0",
    "magika==1.0.3",
    "basic-pitch==0.4.0",
    "silero-vad==6.2.3",
    # what they are fed: photos, fonts, a voice
    "scikit-image==0.26.0",
    "matplotlib",
    "espeakng-loader==0.2.4",
)


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Samples to calibrate on, others to measure on, more from where the first are from, and what
    is right for those to measure on, where known.
    """

    calibration: list[Feed]
    heldout: list[Feed]
    alike: list[Feed]
    truth: Answers | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Shelved:
    """A model. `task`: what is asked; `ask`: the answers that a model gives to held-out samples;
    `agree`: how far answers are right, 0 to 1. `fixed`: inputs that are made constant.
    """

    name: str
    file: str
    task: str
    data: Callable[[Path, Path], Data]
    ask: Callable[[Run, Data, Path], Answers]
    agree: Callable[[Answers, Answers], float]
    fixed: tuple[tuple[str, int], ...] = ()


def picture(image: Image.Image, size: tuple[int, int], *, signed: bool) -> Array:
    """Return float32 [1, 3, H, W] in −1…1, or 0…1; `size`: W, H."""
    pixels = np.asarray(image.resize(size), np.float32) / 255
    return ((pixels - 0.5) / 0.5 if signed else pixels).transpose(2, 0, 1)[None]


def _photos(packages: Path, _file: Path) -> Data:
    made = {
        part: [{"images": picture(i, (320, 320), signed=False)} for i in photos(packages, part)]
        for part in ("calibration", "heldout")
    }
    # every third: of each photo some
    return Data(made["calibration"][::3], made["heldout"][:HELDOUT], made["calibration"][1::3])


def _pages(packages: Path, _file: Path) -> Data:
    learnt, known = (
        [{"x": picture(page, (640, 480), signed=True)} for page in pages(packages, part, count)]
        for part, count in (("calibration", 2 * CALIBRATION), ("heldout", HELDOUT // 2))
    )
    return Data(learnt[:CALIBRATION], known, learnt[CALIBRATION:])


def _line(image: Image.Image, width: int = 320) -> Array:
    canvas = np.zeros((1, 3, 48, width), np.float32)
    part = picture(image, (min(image.width, width), 48), signed=True)
    canvas[..., : part.shape[3]] = part
    return canvas


def _lines(packages: Path, _file: Path) -> Data:
    known = list(lines(packages, "heldout", 4 * HELDOUT))
    learnt = [{"x": _line(image)} for image, _ in lines(packages, "calibration", MORE)]
    return Data(
        learnt[:CALIBRATION],
        [{"x": _line(image)} for image, _ in known],
        learnt[CALIBRATION:],
        [text for _, text in known],
    )


def _angles(packages: Path, _file: Path) -> Data:
    def turned(part: str, count: int) -> tuple[list[Feed], list[int]]:
        found = list(lines(packages, part, count))
        images = [image.rotate(180 * (i % 2)) for i, (image, _) in enumerate(found)]
        feeds: list[Feed] = [{"x": _line(image, 192)} for image in images]
        return feeds, [i % 2 for i in range(count)]

    learnt = turned("calibration", MORE)[0]
    known, truth = turned("heldout", 4 * HELDOUT)
    return Data(learnt[:CALIBRATION], known, learnt[CALIBRATION:], truth)


def _files(packages: Path, _file: Path) -> Data:
    """Return the first and last KiB of files of many kinds, as the model's package does."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(packages.rglob("*.*")):
        if path.is_file() and path.stat().st_size > 2048 and path.suffix != ".pyc":
            kinds.setdefault(path.suffix, []).append(path)
    feeds: list[Feed] = []
    for found in sorted(kinds.items()):
        feeds += [{"bytes": _ends(path)} for path in found[1][:: max(1, len(found[1]) // 4)][:4]]
    learnt = feeds[::5]
    known = [feed for i, feed in enumerate(feeds) if i % 5]
    return Data(learnt[:CALIBRATION], known, learnt[CALIBRATION:])


def _ends(path: Path) -> Array:
    with path.open("rb") as file:
        first = file.read(4096).lstrip()[:1024]
        file.seek(-4096, 2) if path.stat().st_size > 4096 else file.seek(0)
        last = file.read().rstrip()[-1024:]
    values = np.full(2048, 256, np.int32)
    values[: len(first)] = np.frombuffer(first, np.uint8)
    values[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return values[None]


def _notes(_packages: Path, _file: Path) -> Data:
    both = [
        [{"serving_default_input_2:0": sound[None, :, None]}
         for sound in notes(count, 22050, 43844, seed)]
        for count, seed in ((CALIBRATION, 1), (HELDOUT // 2, 2), (HELDOUT // 2, 3))
    ]  # fmt: skip
    return Data(*both)


def chunks(sound: Array) -> Array:
    """Return float32 [steps, 576]: 512 samples, and the 64 before them."""
    steps = len(sound) // 512
    padded = np.concatenate([np.zeros(64, np.float32), sound])
    return np.stack([padded[512 * i : 512 * i + 576] for i in range(steps)])


def _spoken(packages: Path, file: Path) -> Data:
    """Return steps with the states that the float model comes to itself."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    learnt, known = list[Feed](), list[Feed]()
    for part, feeds in (("calibration", learnt), ("heldout", known)):
        steps = chunks(speech(packages, part, 40.0))
        closed_loop(lambda feed: session.run(None, feed), steps, names, feeds)
    return Data(learnt[30::150][:CALIBRATION], known, learnt[55::50])


def closed_loop(
    run: Run, steps: Array, names: Sequence[str], seen: list[Feed] | None = None
) -> Answers:
    """Return whether each step is speech, the state fed back."""
    state, answers = np.zeros((2, 1, 128), np.float32), []
    for step in steps:
        feed: Feed = {"input": step[None], "state": state}
        if "sr" in names:
            feed["sr"] = np.array(RATE, np.int64)
        if seen is not None:
            seen.append(feed)
        probability, state = run(feed)
        answers.append(bool(probability.ravel()[0] > 0.5))
    return answers


def _sequences(packages: Path, _file: Path) -> Data:
    rest = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}

    def cut(part: str, count: int) -> list[Feed]:
        steps = chunks(speech(packages, part, count * 2.1))
        return [{"input": steps[64 * i : 64 * i + 64], **rest} for i in range(count)]

    learnt = cut("calibration", CALIBRATION)
    return Data(learnt, cut("heldout", HELDOUT), cut("calibration", MORE)[CALIBRATION:])


def _ask_steps(run: Run, data: Data, _file: Path) -> Answers:
    steps = np.concatenate([feed["input"] for feed in data.heldout])
    return closed_loop(run, steps, list(data.heldout[0]))


def ask_all(run: Run, data: Data, _file: Path, read: Callable[[Array], Any]) -> Answers:
    """Return what `read` makes of the first output of each sample."""
    return [read(run(feed)[0]) for feed in data.heldout]


def _ask_speech(run: Run, data: Data, _file: Path) -> Answers:
    return [bool(p > 0.5) for feed in data.heldout for p in run(feed)[0].ravel()]


def _ask_texts(run: Run, data: Data, file: Path) -> Answers:
    """Return the texts: the best class of each column, repeats and blanks left out."""
    held = {item.key: item.value for item in onnx.load(file).metadata_props}["character"]
    characters = ["", *held.split("\n")]
    texts = []
    for feed in data.heldout:
        best = run(feed)[0][0].argmax(-1)
        kept = [b for b, before in zip(best, [0, *best[:-1]], strict=True) if b != before and b]
        texts.append("".join(characters[b] if b < len(characters) else " " for b in kept))
    return texts


def boxes(output: Array) -> list[tuple[Array, int]]:
    """Return what YOLOv8 found, [4 + classes, anchors], as corners and class; score above 0.25."""
    values = output[0].T
    scores, kinds = values[:, 4:].max(1), values[:, 4:].argmax(1)
    centre, half = values[:, :2], values[:, 2:4] / 2
    corners = np.concatenate([centre - half, centre + half], 1)
    found: list[tuple[Array, int]] = []
    for index in np.argsort(-scores):
        if scores[index] < 0.25:
            break
        box, kind = corners[index], int(kinds[index])
        if all(k != kind or overlap(box, other) < 0.5 for other, k in found):
            found.append((box, kind))
    return found


def overlap(a: Array, b: Array) -> float:
    """Return intersection over union of two boxes given by corners."""
    inside = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(inside / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inside))


def same_boxes(found: Answers, right: Answers) -> float:
    """Return F1: boxes of one class that overlap by half."""
    hits = sum(
        any(kind == k and overlap(box, b) > 0.5 for b, k in known)
        for image, known in zip(found, right, strict=True)
        for box, kind in image
    )
    total = sum(map(len, found)) + sum(map(len, right))
    return 2 * hits / total if total else 1.0


def same(found: Answers, right: Answers) -> float:
    """Return the share of answers that are alike; spaces do not count."""
    pairs = zip(found, right, strict=True)
    return float(np.mean([_plain(a) == _plain(b) for a, b in pairs]))


def _plain(answer: Any) -> Any:
    return answer.replace(" ", "") if isinstance(answer, str) else answer


def f1(found: Answers, right: Answers) -> float:
    """Return F1 of what is marked in masks."""
    a, b = (np.concatenate([mask.ravel() for mask in part]) for part in (found, right))
    return float(2 * (a & b).sum() / max((a.sum() + b.sum()), 1))


def iou(found: Answers, right: Answers) -> float:
    """Return intersection over union of masks, the mean."""
    pairs = zip(found, right, strict=True)
    return float(np.mean([(a & b).sum() / max((a | b).sum(), 1) for a, b in pairs]))


def above(level: float) -> Callable[[Array], Any]:
    """Return what marks where an output is above a level."""
    return lambda output: output > level


_ANGLE = (_angles, partial(ask_all, read=lambda out: int(out[0].argmax())), same)
_PAGE = (_pages, partial(ask_all, read=above(0.3)), iou)
_TEXT = (_lines, _ask_texts, same)
_STEP = (_spoken, _ask_steps, same)
SHELF = (
    Shelved("nudenet 320n", "nudenet/320n.onnx", "boxes, F1 against float's",
            _photos, partial(ask_all, read=boxes), same_boxes),
    Shelved("PP-OCRv4 det", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "text map, IoU with float's", *_PAGE),
    Shelved("PP-OCRv4 rec", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            "lines read right", *_TEXT),
    Shelved("text angle", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "angle right", *_ANGLE),
    Shelved("PP-OCRv6 det", "rapidocr/models/PP-OCRv6_det_small.onnx",
            "text map, IoU with float's", *_PAGE),
    Shelved("PP-OCRv6 rec", "rapidocr/models/PP-OCRv6_rec_small.onnx", "lines read right", *_TEXT),
    Shelved("magika", "magika/models/standard_v3_3/model.onnx", "file types as float's",
            _files, partial(ask_all, read=lambda out: int(out[0].argmax())), same),
    Shelved("basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "note frames, F1 against float's", _notes, partial(ask_all, read=above(0.5)), f1),
    Shelved("silero op15", "silero_vad/data/silero_vad_16k_op15.onnx",
            "speech as float's, state fed back", *_STEP),
    Shelved("silero half", "silero_vad/data/silero_vad_half.onnx",
            "speech as float's, state fed back", *_STEP),
    Shelved("silero sequence", "silero_vad/data/silero_vad_16k_sequence.onnx",
            "speech as float's", _sequences, _ask_speech, same),
    Shelved("silero ifless, 16 kHz", "silero_vad/data/silero_vad_op18_ifless.onnx",
            "speech as float's, state fed back", *_STEP, fixed=(("sr", RATE),)),
)  # fmt: skip

"""Evaluates the vision models of a run folder without any code of qgraph.

    python independent_vision.py classify RUN_FOLDER CHECKPOINT DATA_FOLDER VARIANT...
    python independent_vision.py detect RUN_FOLDER DETECTOR ANNOTATIONS VARIANT...

`classify`: transformers prepares the pictures. `detect`: Pillow prepares them, boxes are thinned
one by one, and pycocotools does the sums. PyTorch computes the float reference, onnxruntime
everything else. Prints JSON: figures by variant, PyTorch's under `torch`.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image


def open_model(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, pixels: Any) -> Any:
    name = session.get_inputs()[0].name
    return session.run(None, {name: np.asarray(pixels, np.float32)})[0]


@torch.no_grad()
def classify(
    folder: Path, checkpoint: str, data: Path, names: list[str]
) -> dict[str, dict[str, float]]:
    from transformers import AutoModelForImageClassification, ViTImageProcessor

    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    processor = ViTImageProcessor.from_pretrained(checkpoint)
    classes = sorted(path.name for path in data.iterdir())
    files = [(path, classes.index(name)) for name in classes for path in (data / name).iterdir()]
    pictures = [Image.open(path).convert("RGB") for path, _ in files]
    labels = torch.tensor([label for _, label in files])
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]

    def figures(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
        ranked = logits.argsort(1, descending=True)
        log_p, log_q = (side.double().log_softmax(1) for side in (reference, logits))
        return {
            "top1": float((ranked[:, 0] == labels).double().mean()),
            "top5": float((ranked[:, :5] == labels[:, None]).any(1).double().mean()),
            "top1_agreement": float((logits.argmax(1) == reference.argmax(1)).double().mean()),
            "kl": float((log_p.exp() * (log_p - log_q)).sum(1).mean()),
            "mse": float(((logits - reference).double() ** 2).mean()),
        }

    found = {"torch": model(pixels).logits}
    for name in names:
        session = open_model(folder / f"{name}.onnx")
        rows = [torch.from_numpy(run(session, row[None])) for row in pixels.numpy()]
        found[name] = torch.cat(rows)
    return {name: figures(logits, found["torch"]) for name, logits in found.items()}


def detect(
    folder: Path, network: str, annotations: Path, names: list[str]
) -> dict[str, dict[str, float]]:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    sessions = {name: open_model(folder / f"{name}.onnx") for name in names}
    detections: dict[str, list[dict[str, Any]]] = {name: [] for name in ["torch", *names]}
    size = sessions[names[0]].get_inputs()[0].shape[2:]
    theirs = _detector(Path(network), size[0])
    for scene in truth.dataset["images"]:
        picture = Image.open(annotations.parent / "images" / scene["file_name"]).convert("RGB")
        pixels, scale, offset = _framed(picture, size)
        outputs = {name: run(session, pixels)[0] for name, session in sessions.items()}
        with torch.no_grad():
            outputs["torch"] = theirs(torch.from_numpy(pixels))[0].numpy()
        for name, rows in outputs.items():
            for x, y, w, h, score, label in _boxes(rows):
                box = [(x - w / 2 - offset[0]) / scale, (y - h / 2 - offset[1]) / scale]
                detections[name].append(
                    {
                        "image_id": scene["id"],
                        "category_id": truth.getCatIds()[label],
                        "bbox": [*box, w / scale, h / scale],
                        "score": score,
                    }
                )
    return {name: _precision(truth, found) for name, found in detections.items()}


def _detector(folder: Path, side: int) -> Any:
    """Return the PyTorch network, built by the script that trained it."""
    sys.path.insert(0, str(folder))
    from detector import Decoded, load

    return Decoded(load(folder / "detector.safetensors"), side).eval()


def _framed(picture: Image.Image, size: list[int]) -> tuple[Any, float, tuple[int, int]]:
    height, width = size
    scale = min(height / picture.height, width / picture.width)
    small = picture.resize((round(picture.width * scale), round(picture.height * scale)), 2)
    frame = Image.new("RGB", (width, height), (114, 114, 114))
    offset = ((width - small.width) // 2, (height - small.height) // 2)
    frame.paste(small, offset)
    return np.asarray(frame, np.float32).transpose(2, 0, 1)[None] / 255, scale, offset


def _boxes(rows: Any) -> list[tuple[float, float, float, float, float, int]]:
    """Return at most 300 boxes of [4 + classes, places], non-maximum suppression class by class."""
    kept: list[tuple[float, float, float, float, float, int]] = []
    for label, scores in enumerate(rows[4:]):
        of_class: list[Any] = []
        for place in sorted(np.flatnonzero(scores > 0.001), key=lambda at: -scores[at]):
            box = tuple(map(float, rows[:4, place]))
            if all(_overlap(box, other) <= 0.7 for other in of_class):
                of_class.append(box)
                x, y, w, h = box
                kept.append((x, y, w, h, float(scores[place]), label))
    return sorted(kept, key=lambda item: -item[4])[:300]


def _overlap(a: Any, b: Any) -> float:
    sides = [
        max(0.0, min(p + s / 2, q + t / 2) - max(p - s / 2, q - t / 2))
        for p, q, s, t in zip(a[:2], b[:2], a[2:], b[2:], strict=True)
    ]
    shared = sides[0] * sides[1]
    return float(shared / (a[2] * a[3] + b[2] * b[3] - shared))


def _precision(truth: Any, found: list[dict[str, Any]]) -> dict[str, float]:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluated = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return {"map50": float(evaluated.stats[1]), "map": float(evaluated.stats[0])}


if __name__ == "__main__":
    task, run_folder, source, given, *variants = sys.argv[1:]
    measure = {"classify": classify, "detect": detect}[task]
    print(json.dumps(measure(Path(run_folder), source, Path(given), variants)))

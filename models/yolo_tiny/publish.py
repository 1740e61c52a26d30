"""From the trained detector to what ships: `model.onnx` with its manifest, and annotated scenes.

Run as ``python models/yolo_tiny/publish.py``; needs no training.
"""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from detector import Decoded, load
from onnx import version_converter
from PIL import Image
from scenes import CLASSES, SIDE, Digits, Scene, compose, load_splits

from qgraph._exporters.exported import name_weights
from qgraph._exporters.manifest import MANIFEST, Check, Manifest
from qgraph._graph.edit.fold import fold
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.models import write_model
from qgraph._graph.run.session import open_session

HERE = Path(__file__).resolve().parent
CALIBRATION, HELDOUT = 32, 160
OPSET, TRACED_OPSET = 21, 20
_QUALITY = 92


def write_onnx(model: Decoded, path: Path) -> float:
    """Write the detector as ONNX; return its largest difference to PyTorch on a random picture."""
    example = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch) / "traced.onnx"
        torch.onnx.export(
            model,
            (example,),
            str(traced),
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes={"images": {0: "batch"}, "output0": {0: "batch"}},
            opset_version=TRACED_OPSET,
            dynamo=False,
        )
        graph = version_converter.convert_version(fold(onnx.load(traced)), OPSET)
    graph.producer_name, graph.producer_version = "qgraph", ""
    name_weights(graph)
    write_model(graph, path)
    got = open_session(path).run({"images": example.numpy()})["output0"]
    return float(np.abs(got - model(example).numpy()).max())


def write_scenes(folder: Path, name: str, digits: Digits, count: int, seed: int) -> None:
    """Write `name.json` in COCO's form and the pictures it names."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        scene, file = compose(digits, rng), f"{name}_{number:03d}.jpg"
        Image.fromarray(scene.pixels).save(folder / "images" / file, quality=_QUALITY)
        images.append({"id": number, "file_name": file, "width": SIDE, "height": SIDE})
        annotations += _annotations(scene, number, len(annotations))
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def _annotations(scene: Scene, image: int, before: int) -> list[dict[str, Any]]:
    sizes = np.concatenate([scene.boxes[:, :2], scene.boxes[:, 2:] - scene.boxes[:, :2]], 1)
    return [
        {
            "id": before + row,
            "image_id": image,
            "category_id": int(label),
            "bbox": size.tolist(),
            "area": float(size[2] * size[3]),
            "iscrowd": 0,
        }
        for row, (size, label) in enumerate(zip(sizes, scene.labels, strict=True), start=1)
    ]


def main() -> None:
    """Write everything."""
    model = Decoded(load(HERE / "detector.safetensors"), SIDE).eval()
    difference = write_onnx(model, HERE / "model.onnx")
    manifest = Manifest(
        schema=Manifest.SCHEMA,
        family="yolo",
        part="detector",
        source="detector.safetensors",
        dtype="fp32",
        opset=OPSET,
        classes=CLASSES,
        checks=(Check(case=f"batch 1, {SIDE}×{SIDE} pixels", max_abs_difference=difference),),
        packages={name: metadata.version(name) for name in ("numpy", "onnx", "torch")},
    )
    write_document(HERE / MANIFEST, manifest)
    train, heldout = load_splits()
    write_scenes(HERE / "data", "calibration", train, CALIBRATION, seed=1)
    write_scenes(HERE / "data", "heldout", heldout, HELDOUT, seed=2)


if __name__ == "__main__":
    main()

"""`qgraph export` of Ultralytics' models (needs the `yolo` extra, best in its own environment).

Ultralytics is AGPL-3.0: it is used where a user installed it, never shipped, and imported here
alone. A description (`yolo11n.yaml`) gives a model with random weights. A checkpoint (`.pt`) is a
pickle, and of a description Ultralytics evaluates parts: both can run code, and a file of either
kind is opened on request only.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qgraph._exporters.exported import (
    DEFAULT_OPSET,
    TRACED_OPSET,
    at_opset,
    compared,
    name_weights,
    tracing,
)
from qgraph._exporters.family import ExportOptions
from qgraph._exporters.manifest import MANIFEST, Check, Manifest
from qgraph._exporters.yolo.head import find_detector_head
from qgraph._graph.edit.fold import fold
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import publishing, require_file
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array

DEFAULT_SIZE = (640, 640)
_TOLERANCE = 1e-3
"""As a share of the largest value, which is a position in pixels."""
_PACKAGES = ("numpy", "onnx", "torch", "ultralytics")
_DESCRIPTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.ya?ml")
"""A description that comes with Ultralytics, asked for by name; of others it evaluates parts."""
_OFFLINE = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}


def export_detector(
    source: Path, folder: Path, options: ExportOptions, progress: Progress
) -> Manifest:
    """Write the detector `source` to `folder` and return its manifest.

    Raises:
        UsageError: an option that cannot be had, or a pickle that is not trusted.
        InputError: the source cannot be used, or the graph differs from PyTorch.
        EnvironmentFault: Ultralytics is not installed.
    """
    _check(source, options)
    _require_ultralytics()
    size = options.image_size or DEFAULT_SIZE
    with publishing(folder, last=MANIFEST) as target, tempfile.TemporaryDirectory() as scratch:
        progress("exporting", 0, 3)
        with _alone(Path(scratch)):
            traced, model = _traced(source, Path(scratch), size, options)
        progress("exporting", 1, 3)
        graph = _finished(read_model(traced), options.opset or DEFAULT_OPSET)
        write_model(graph, target / "model.onnx")
        progress("exporting", 2, 3)
        checks = _compare(target / "model.onnx", model, size, options)
        manifest = Manifest(
            schema=Manifest.SCHEMA,
            family="yolo",
            part="detector",
            source=source.name,
            dtype="fp32",
            opset=options.opset or DEFAULT_OPSET,
            classes=tuple(str(model.names[index]) for index in sorted(model.names)),
            checks=checks,
            packages={name: metadata.version(name) for name in _PACKAGES},
        )
        write_document(target / MANIFEST, manifest)
    progress("exporting", 3, 3)
    return manifest


def _check(source: Path, options: ExportOptions) -> None:
    if options.dtype != "fp32":
        raise UsageError(f"found dtype {options.dtype!r}, expected fp32 for a detector")
    if _DESCRIPTION.fullmatch(str(source)) is None or source.exists():
        require_file(source, "checkpoint")
        if not options.trust_pickle:
            is_pickle = source.suffix.lower() == ".pt"
            what = (
                "a .pt checkpoint is a pickle" if is_pickle else "Ultralytics evaluates this file"
            )
            raise UsageError(
                f"{what}, which can run any code when it is opened",
                where=str(source),
                hint="Give --trust-pickle if you trust where it comes from, or export it to ONNX"
                " elsewhere and give that to qgraph. A description of Ultralytics' own, such as"
                " yolo11n.yaml, is given by its name.",
            )
    if options.image_size is not None and any(side % 32 for side in options.image_size):
        height, width = options.image_size
        raise UsageError(f"--image-size {height}x{width} is no multiple of 32 both ways")


def _require_ultralytics() -> None:
    os.environ.update(_OFFLINE)
    try:
        import ultralytics  # noqa: F401 - an extra, and AGPL: imported for whom installed it
    except (ImportError, OSError, RuntimeError) as error:  # a broken binary raises the last two
        raise EnvironmentFault(
            f"exporting a YOLO needs Ultralytics, which is missing or broken: {error}",
            hint="`make yolo` sets up an environment of its own for it (AGPL-3.0); then run"
            " .venv-yolo/bin/qgraph export. A YOLO already in ONNX needs no export.",
        ) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Any:
    """Let Ultralytics work and print where it disturbs nobody: it writes beside what it reads."""
    # its handler holds the stdout it was imported with
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        yield


def _traced(
    source: Path, scratch: Path, size: tuple[int, int], options: ExportOptions
) -> tuple[Path, Any]:
    from ultralytics import YOLO

    given = str(source)
    if source.is_file():
        # by the name of a description Ultralytics tells its size; by that of a checkpoint it would
        # fetch another, yolov5nu.pt in place of yolov5n.pt
        name = source.name if source.suffix.lower() != ".pt" else "checkpoint.pt"
        given = str(shutil.copy(source, scratch / name))
    with tracing("Ultralytics cannot export it", str(source)):
        yolo = YOLO(given)
        opset = min(options.opset or DEFAULT_OPSET, TRACED_OPSET)
        written = yolo.export(
            format="onnx",
            imgsz=list(size),
            opset=opset,
            batch=options.batch or 1,
            dynamic=False,
            simplify=False,
            verbose=False,
        )
    return Path(written).resolve(), yolo.model.float().eval()


def _finished(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    # Ultralytics' own metadata names its licence and author: that stays
    folded = at_opset(fold(graph), opset)
    name_weights(folded)
    if find_detector_head(folded) is None:
        raise InputError(
            "the exported graph does not end in the head of a detector",
            hint="Only detectors are exported; give another model to qgraph as an ONNX file.",
        )
    return folded


def _compare(
    path: Path, model: Any, size: tuple[int, int], options: ExportOptions
) -> tuple[Check, ...]:
    import torch

    generator = np.random.default_rng(0)
    image = generator.uniform(0, 1, (options.batch or 1, 3, *size)).astype(np.float32)
    with torch.no_grad():
        answer = model(torch.from_numpy(image))
    expected: Array = (answer[0] if isinstance(answer, list | tuple) else answer).numpy()
    session = open_session(path)
    got = session.run({session.inputs[0]: image})[session.outputs[0]]
    case = f"batch {len(image)}, {size[0]}×{size[1]} pixels"
    return (compared(case, got, expected, "fp32", _TOLERANCE),)

"""`qgraph export` for image classifiers of transformers (needs the `export` extra).

optimum traces the model; the graph is folded, its axes are named, and it is held against PyTorch
before anything is published.
"""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qgraph._exporters.checkpoint_folder import check_request, load_pretrained, require_extra
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
from qgraph._exporters.quiet import quiet
from qgraph._exporters.vit.processor import CONFIG, read_processor
from qgraph._exporters.vit.source import require_classifier
from qgraph._graph.edit.fold import fold
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import publishing, write_bytes
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array

INPUT, OUTPUT = "pixel_values", "logits"
_USUAL_SIDE = 224
_PACKAGES = ("numpy", "onnx", "optimum", "optimum-onnx", "torch", "transformers")
_STEPS = ("load", "trace", "fold", "compare with PyTorch")


def export_classifier(
    source: Path, folder: Path, options: ExportOptions, progress: Progress
) -> Manifest:
    """Write the classifier in the folder `source` to `folder` and return its manifest.

    Raises:
        UsageError: a dtype or opset that cannot be had, or `folder` is the checkpoint.
        InputError: the checkpoint cannot be used, or the graph differs from PyTorch.
        EnvironmentFault: the `export` extra is not installed, or `folder` cannot be written.
    """
    _check(source, folder, options)
    require_classifier(source)
    require_extra()
    import transformers

    loader: Any = transformers.AutoModelForImageClassification
    with quiet(), publishing(folder, last=MANIFEST) as target:
        progress("exporting", 0, len(_STEPS))
        model = load_pretrained(loader, source, options.dtype)
        images = _images(model, options, _side(source, model))
        expected = [_ask_torch(model, image) for image in images]
        progress("exporting", 1, len(_STEPS))
        graph = _graph(model, images[0], target, options, progress)
        write_model(graph, target / "model.onnx")
        for name in ("config.json", CONFIG):
            if (source / name).is_file():
                write_bytes(target / name, (source / name).read_bytes())
        progress("exporting", 3, len(_STEPS))
        checks = _compare(target / "model.onnx", images, expected, options.dtype)
        manifest = _manifest(source, target, model, options, checks)
        write_document(target / MANIFEST, manifest)
    progress("exporting", len(_STEPS), len(_STEPS))
    return manifest


def _check(source: Path, folder: Path, options: ExportOptions) -> None:
    check_request(source, folder, options.dtype, options.opset or DEFAULT_OPSET)
    if options.image_size is not None:
        raise UsageError("a classifier's image size is its checkpoint's; leave --image-size out")


def _side(source: Path, model: Any) -> tuple[int, int]:
    """Return height and width of the input: what the image processor makes, else the config's.

    DINOv2, for one, is configured for 518 pixels and used at 224.
    """
    if (source / CONFIG).is_file():
        processor = read_processor(source / CONFIG)
        made = processor.crop or processor.exact
        if made is not None:
            return made
    size = getattr(model.config, "image_size", None) or _USUAL_SIDE
    return (size[0], size[1]) if isinstance(size, list | tuple) else (size, size)


def _images(model: Any, options: ExportOptions, side: tuple[int, int]) -> list[Array]:
    """Return random pictures [B,C,H,W], of the batch sizes to be compared."""
    channels = getattr(model.config, "num_channels", 3)
    dtype = np.float16 if options.dtype == "fp16" else np.float32
    generator = np.random.default_rng(0)
    batches = (2, 1, 3) if options.batch is None else (options.batch,)
    return [generator.uniform(-1, 1, (b, channels, *side)).astype(dtype) for b in batches]


def _ask_torch(model: Any, image: Array) -> Array:
    import torch

    with torch.no_grad():
        answer: Array = model(pixel_values=torch.from_numpy(image)).logits.float().numpy()
    return answer


def _graph(
    model: Any, image: Array, target: Path, options: ExportOptions, progress: Progress
) -> onnx.ModelProto:
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    opset = options.opset or DEFAULT_OPSET
    hint = "Any other model can be given to qgraph as an ONNX file."
    with tempfile.TemporaryDirectory(dir=target) as scratch:
        path = Path(scratch) / "traced.onnx"
        with tracing("optimum cannot export it", hint=hint):
            constructor = TasksManager.get_exporter_config_constructor(
                "onnx", model=model, task="image-classification", library_name="transformers"
            )
            shapes = {"batch_size": image.shape[0], "height": image.shape[2]}
            export(
                model,
                constructor(model.config, float_dtype=options.dtype),
                path,
                opset=min(opset, TRACED_OPSET),
                input_shapes={**shapes, "width": image.shape[3], "num_channels": image.shape[1]},
                disable_dynamic_axes_fix=True,
                no_dynamic_axes=options.batch is not None,
            )
        progress("exporting", 2, len(_STEPS))
        graph = read_model(path)
    _name_axes(graph, image, options)
    # folding computes what follows from shapes that are known
    graph = at_opset(fold(onnx.shape_inference.infer_shapes(graph)), opset)
    graph.producer_name, graph.producer_version = "qgraph", ""
    name_weights(graph)
    return graph


def _name_axes(graph: onnx.ModelProto, image: Array, options: ExportOptions) -> None:
    batch = options.batch or "batch"
    value, logits = graph.graph.input[0], graph.graph.output[0]
    classes = logits.type.tensor_type.shape.dim[1].dim_value or None
    shapes = ((value, (batch, *image.shape[1:])), (logits, (batch, classes)))
    for item, shape in shapes:
        kind = item.type.tensor_type.elem_type
        item.CopyFrom(helper.make_tensor_value_info(item.name, kind, shape))


def _compare(
    path: Path, images: list[Array], expected: list[Array], dtype: str
) -> tuple[Check, ...]:
    session = open_session(path)
    checks = []
    for image, wanted in zip(images, expected, strict=True):
        got = session.run({session.inputs[0]: image})[session.outputs[0]]
        case = f"batch {len(image)}, {image.shape[2]}×{image.shape[3]} pixels"
        checks.append(compared(case, got, wanted, dtype))
    return tuple(checks)


def _manifest(
    source: Path, target: Path, model: Any, options: ExportOptions, checks: tuple[Check, ...]
) -> Manifest:
    names = model.config.id2label
    return Manifest(
        schema=Manifest.SCHEMA,
        family="vit",
        part="classifier",
        source=source.resolve().name,
        dtype=options.dtype,
        opset=options.opset or DEFAULT_OPSET,
        classes=tuple(str(names[index]) for index in sorted(names)),
        processor=CONFIG if (target / CONFIG).is_file() else None,
        checks=checks,
        packages={name: metadata.version(name) for name in _PACKAGES},
    )

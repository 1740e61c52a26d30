"""The vision tower of a Qwen2.5-VL checkpoint as a graph: `qgraph export --part vision`.

Imports without the `export` extra; `export_vision` loads torch when it is called.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from qgraph._exporters.checkpoint_folder import check_request, read_config, require_extra
from qgraph._exporters.exported import DEFAULT_OPSET
from qgraph._exporters.manifest import MANIFEST, Manifest, VisionEncoder, find_manifest
from qgraph._exporters.quiet import quiet
from qgraph._exporters.qwen.export import PACKAGES
from qgraph._exporters.qwen.source import QwenCheckpoint, describe
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import publishing
from qgraph._graph.io.models import drop_stale_data, write_model
from qgraph._graph.progress import Progress, silent

if TYPE_CHECKING:
    from qgraph._exporters.qwen.vision import VisionTower

VISION_ENCODER = "vision_encoder.onnx"
_LARGEST_SIDE = 448
_STEPS = ("load", "trace", "compare with PyTorch")


@dataclass(frozen=True, slots=True)
class VisionRequest:
    """`image_size`: [height, width] in pixels, None for the largest square up to 448 allowed.
    `images`: to find what overflows fp16.
    """

    image_size: tuple[int, int] | None = None
    images: tuple[Path, ...] = ()
    dtype: str = "fp32"
    opset: int = DEFAULT_OPSET


def export_vision(
    source: Path, folder: Path, request: VisionRequest, progress: Progress = silent
) -> Manifest:
    """Write the vision tower of the checkpoint `source` to `folder` and return its manifest.

    Beside an exported decoder, its manifest is completed; what is there stays.

    Raises:
        UsageError: a size that is no multiple of a merged patch, or a dtype that cannot be had.
        InputError: the checkpoint has no vision tower or cannot be used.
        EnvironmentFault: the `export` extra is not installed, or `folder` cannot be written.
    """
    check_request(source, folder, request.dtype, request.opset)
    described = describe(source)
    if not described.has_vision:
        raise UsageError(
            f"a checkpoint of type {described.model_type} has no vision tower",
            where=str(source),
            hint="Leave --part out to export the language model.",
        )
    require_extra()
    size = _image_size(described, request.image_size)
    with quiet(), publishing(folder, last=MANIFEST) as target:
        progress("exporting the vision tower", 0, len(_STEPS))
        encoder = _write(described, target, size, request, progress)
        manifest = _manifest(described, folder, request, encoder)
        write_document(target / MANIFEST, manifest)
    drop_stale_data(folder / VISION_ENCODER)
    progress("exporting the vision tower", len(_STEPS), len(_STEPS))
    return manifest


def _image_size(source: QwenCheckpoint, wanted: tuple[int, int] | None) -> tuple[int, int]:
    settings = read_config(source.folder / "preprocessor_config.json")
    side = int(settings.get("patch_size", 14)) * int(settings.get("merge_size", 2))
    if wanted is None:
        most = int(settings.get("max_pixels") or settings["size"]["longest_edge"])
        largest = min(_LARGEST_SIDE, int(most**0.5)) // side * side
        return largest, largest
    if any(pixels <= 0 or pixels % side for pixels in wanted):
        raise UsageError(
            f"found an image size of {wanted[0]}x{wanted[1]}, expected multiples of {side}",
            hint=f"A merged patch is {side} pixels wide.",
        )
    return wanted


def _write(
    source: QwenCheckpoint,
    target: Path,
    size: tuple[int, int],
    request: VisionRequest,
    progress: Progress,
) -> VisionEncoder:
    # torch and transformers: an extra, seconds to import
    import torch

    from qgraph._exporters.qwen import assets, vision_trace
    from qgraph._exporters.qwen.vision import VisionTower

    with tempfile.TemporaryDirectory(dir=target) as scratch:
        # the tower reads what an exported folder holds
        assets.copy_files(source, Path(scratch))
        assets.write_vision(source, Path(scratch) / assets.VISION)
        tower: VisionTower = VisionTower(Path(scratch))
        samples = vision_trace.samples(tower, size, request.images)
        with torch.no_grad():
            expected = [tower.embed(sample.pixels, sample.grid) for sample in samples]
        progress("exporting the vision tower", 1, len(_STEPS))
        graph, float32 = vision_trace.trace(
            tower, samples, request.dtype, request.opset, Path(scratch)
        )
        write_model(graph, target / VISION_ENCODER)
    progress("exporting the vision tower", 2, len(_STEPS))
    checks = vision_trace.check(target / VISION_ENCODER, samples, expected, request.dtype)
    grid = samples[0].grid
    return VisionEncoder(
        path=VISION_ENCODER,
        dtype=request.dtype,
        opset=request.opset,
        image_size=size,
        grid_thw=grid,
        tokens=int(expected[0].shape[0]),
        float32=float32,
        checks=checks,
    )


def _manifest(
    source: QwenCheckpoint, folder: Path, request: VisionRequest, encoder: VisionEncoder
) -> Manifest:
    there = find_manifest(folder / "model.onnx")
    if there is not None and there.family == "qwen":
        return there.model_copy(update={"vision_encoder": encoder})
    return Manifest(
        schema=Manifest.SCHEMA,
        family="qwen",
        part="vision",
        source=source.folder.resolve().name,
        dtype=request.dtype,
        opset=request.opset,
        with_past=False,
        vision_encoder=encoder,
        packages={name: metadata.version(name) for name in PACKAGES},
    )

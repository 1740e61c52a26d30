"""`qgraph.export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgraph._exporters.family import ExportOptions
from qgraph._exporters.manifest import Manifest
from qgraph._exporters.registry import exporter_of
from qgraph._graph.progress import Progress, silent
from qgraph._steps.given import AnyPath, path_of
from qgraph._steps.options import chosen


def export(
    source: AnyPath,
    folder: AnyPath,
    *,
    family: str = "auto",
    options: ExportOptions | None = None,
    progress: Progress = silent,
    **given: Any,
) -> Manifest:
    """Export a checkpoint to `folder/model.onnx` and return its manifest.

    `part="vision"` writes `folder/vision_encoder.onnx` instead. Options are those of
    `ExportOptions`, as an object or by name.

    Raises:
        EnvironmentFault: a package that the family's export needs is not installed.
        InputError: the checkpoint cannot be read or is of an unknown architecture.
    """
    asked = chosen(ExportOptions, options, given)
    exporter = exporter_of(path_of(source, "a checkpoint"), family)
    return exporter.export(Path(source), path_of(folder, "a folder"), asked, progress)

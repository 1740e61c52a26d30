"""The model's own files in a bundle: its graph, and the weights it names and no others."""

from __future__ import annotations

from pathlib import Path

import onnx

from graph.io.external import external_files
from graph.io.files import copy_file
from graph.io.models import read_on_disk, size_on_disk
from graph.io.sharing import write_models

_PADDING = 4096
"""Bytes that may lie between two tensors of a file because of alignment."""


def copy_model(model: onnx.ModelProto, source: Path, target: Path) -> list[str]:
    """Copy the model in `source`, with its data files, to `target`; return the data files' names.

    `model`: the same, without weights. Where its data files hold what it does not read, as those do
    that several profiles share, its own tensors are written to a file of their own.
    """
    files = external_files(model, source.parent)
    if _unread(model, source, files):
        write_models([(target, read_on_disk(source))], target.parent)
        return [path.name for path in target.parent.glob("*.data")]
    names = [file.relative_to(source.parent).as_posix() for file in files]
    for file, name in zip(files, names, strict=True):
        copy_file(file, target.parent / name)
    copy_file(source, target)
    return names


def _unread(model: onnx.ModelProto, path: Path, files: list[Path]) -> bool:
    """Return whether the data files hold more than the model reads, alignment aside."""
    there = path.stat().st_size + sum(file.stat().st_size for file in files)
    return there - size_on_disk(path) > _PADDING * (len(model.graph.initializer) + 1)

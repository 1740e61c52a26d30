"""Copies of a model that stand alone: its graph, and the weights it names and no others."""

from __future__ import annotations

from pathlib import Path

import onnx

from qgraph._graph.io.external import external_files, external_tensors, inner_external_tensors
from qgraph._graph.io.files import copy_file, write_bytes
from qgraph._graph.io.models import read_model, size_on_disk
from qgraph._graph.io.sharing import write_models
from qgraph._graph.io.weights import PAGE, load, point_into


def copy_model(source: Path, target: Path, changed: onnx.ModelProto | None = None) -> list[str]:
    """Copy the model in `source`, with its data files, to `target`; return the data files' names.

    `changed` is written in its place, if given: the same model, without weights, whose data lies
    where that of `source` does. Where the data files hold what it does not read, as those do that
    several profiles share, its own tensors are written to a file of their own.

    Raises:
        InputError: not an ONNX model, or its external data cannot be used.
    """
    model = read_model(source, weights=False) if changed is None else changed
    files = external_files(model, source.parent)
    if _unread(model, source, files):
        write_models(lambda _: [(target, _placed(model, source.parent))], target.parent)
        return [path.name for path in target.parent.glob("*.data")]
    names = [file.relative_to(source.parent).as_posix() for file in files]
    for file, name in zip(files, names, strict=True):
        copy_file(file, target.parent / name)
    if changed is None:
        copy_file(source, target)
    else:
        write_bytes(target, changed.SerializeToString(deterministic=True))
    return names


def _placed(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a copy of `model` whose weights are found from any folder."""
    placed = onnx.ModelProto()
    placed.CopyFrom(model)
    point_into(external_tensors(placed), folder)
    for tensor in inner_external_tensors(placed):
        load(tensor)
    return placed


def _unread(model: onnx.ModelProto, path: Path, files: list[Path]) -> bool:
    """Return whether the data files hold more than the model reads, alignment aside."""
    there = path.stat().st_size + sum(file.stat().st_size for file in files)
    return there - size_on_disk(path) > PAGE * (len(model.graph.initializer) + 1)

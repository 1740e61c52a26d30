"""External data of a model: which files it names, and whether they may be read.

A model may only read regular files inside its own folder. The checks run before any weight is
read, because onnx and onnxruntime report the same faults late and without the tensor's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from graph.errors import InputError


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """Return the data files `model` names, each once, sorted by name.

    Raises:
        InputError: a location leaves `folder`, is no regular file, or is shorter than its tensor
            says.
    """
    return sorted({_checked(tensor, folder) for tensor in external_tensors(model)})


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of `model` whose values lie outside the file, wherever it stands."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    sparse = (part for item in graph.sparse_initializer for part in (item.values, item.indices))
    for tensor in (*graph.initializer, *sparse):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            sparse = (attribute.sparse_tensor, *attribute.sparse_tensors)
            parts = (part for item in sparse for part in (item.values, item.indices))
            for tensor in (attribute.t, *attribute.tensors, *parts):
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    yield tensor
            for graph in (attribute.g, *attribute.graphs):
                yield from _in_graph(graph)


def _checked(tensor: onnx.TensorProto, folder: Path) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"tensor {tensor.name!r}"
    path = _inside(entries.get("location", ""), folder, where)
    offset = _whole_number(entries.get("offset", "0"), "offset", where)
    length = _whole_number(entries.get("length", "0"), "length", where)
    size = path.stat().st_size
    if offset + length > size:
        raise InputError(
            f"{where} needs bytes {offset} to {offset + length} of a file of {size} bytes",
            where=str(path),
            hint="The data file is cut short or belongs to another model; copy it again.",
        )
    return path


def _inside(location: str, folder: Path, where: str) -> Path:
    pure = PurePosixPath(location)
    leaves = ".." in pure.parts or pure.is_absolute() or PureWindowsPath(location).is_absolute()
    if not location or "\0" in location or leaves or location.startswith("*/"):
        raise InputError(
            f"{where} has its data at {location!r}, which is not inside the model's folder",
            where=str(folder),
            hint="External data must stand beside the model; save the model again.",
        )
    path = folder / location
    if not path.exists():
        raise InputError(
            f"the external data of {where} is missing",
            where=str(path),
            hint="Copy the data file beside the model.",
        )
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"the external data of {where} is a link out of the folder or no regular file",
            where=str(path),
            hint="Copy the data file beside the model.",
        )
    return path


def _whole_number(text: str, key: str, where: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{where} has {key} {text!r}, expected a whole number")
    return int(text)

"""External data of a model: which files it names, and whether they may be read.

A model may only read regular files inside its own folder. The checks run before any weight is
read, because onnx and onnxruntime report the same faults late and without the tensor's name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from qgraph._graph.bodies import bodies_of, nodes_within
from qgraph._graph.errors import InputError
from qgraph._graph.io.datafile import opened_inside
from qgraph._graph.io.weights import BITS, bytes_of_shape

_LONGEST_NUMBER = 19
_SEVERAL_OR_NO_NUMBERS = {
    *BITS,
    onnx.TensorProto.STRING,
    onnx.TensorProto.COMPLEX64,
    onnx.TensorProto.COMPLEX128,
}
"""Types whose entries are not one number each where no raw bytes are given."""


def external_files(model: onnx.ModelProto, folder: Path) -> list[Path]:
    """Return the data files `model` names, each once, sorted by name.

    Raises:
        InputError: a location leaves `folder`, is no regular file, or is shorter than its tensor
            says.
    """
    return sorted({_checked(tensor, folder) for tensor in external_tensors(model)})


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of `model` whose values lie outside the file, wherever it stands."""
    yield from _external(model.graph.initializer)
    yield from inner_external_tensors(model)


def inner_external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield those of `external_tensors` that are no initializers of the main graph."""
    functions = (node for function in model.functions for node in function.node)
    nodes = list(nodes_within((*model.graph.node, *functions)))
    graphs = [body for node in nodes for body in bodies_of(node)]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    sparse = [item for graph in (model.graph, *graphs) for item in graph.sparse_initializer]
    sparse += [part for it in attributes for part in (it.sparse_tensor, *it.sparse_tensors)]
    yield from _external(part for item in sparse for part in (item.values, item.indices))
    yield from _external(tensor for graph in graphs for tensor in graph.initializer)
    yield from _external(tensor for item in attributes for tensor in (item.t, *item.tensors))


def _external(tensors: Iterable[onnx.TensorProto]) -> Iterator[onnx.TensorProto]:
    return (item for item in tensors if item.data_location == onnx.TensorProto.EXTERNAL)


def require_whole(tensor: onnx.TensorProto, where: str) -> None:
    """Check that a tensor's values are as many as its shape says, where they lie in the model.

    Raises:
        InputError: an unknown type, a negative dimension, too few values or too many, a segment.
    """
    needed = _bytes_needed(tensor, where)
    if tensor.HasField("segment"):
        raise InputError(
            f"tensor {tensor.name!r} is a segment of one, expected a whole", where=where
        )
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data)
    listed = max(map(len, (*lists, tensor.double_data, tensor.uint64_data)))
    if tensor.HasField("raw_data") and listed:
        raise InputError(
            f"tensor {tensor.name!r} holds its values twice, as raw bytes and as a list",
            where=where,
            hint="Readers take one or the other; save the model again.",
        )
    if tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
    elif tensor.data_type in _SEVERAL_OR_NO_NUMBERS:
        return
    else:
        found, needed, unit = listed, math.prod(tensor.dims), "values"
    if found != needed:
        raise InputError(
            f"tensor {tensor.name!r} holds {found} {unit}, but its shape"
            f" {list(tensor.dims)} needs {needed}",
            where=where,
            hint="The model is cut short or was altered; download or export it again.",
        )


def _bytes_needed(tensor: onnx.TensorProto, where: str) -> int:
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        raise InputError(f"tensor {tensor.name!r} has no known type", where=where)
    if any(size < 0 for size in tensor.dims):
        raise InputError(
            f"tensor {tensor.name!r} has the shape {list(tensor.dims)}, expected sizes from 0 up",
            where=where,
        )
    return bytes_of_shape(tensor)


def _checked(tensor: onnx.TensorProto, folder: Path) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    where = f"tensor {tensor.name!r}"
    path, size = _inside(entries.get("location", ""), folder, where)
    offset = _whole_number(entries.get("offset", "0"), "offset", where)
    needed = _bytes_needed(tensor, str(path))
    length = _whole_number(entries.get("length", str(needed)), "length", where)
    if length != needed:
        raise InputError(
            f"{where} names {length} bytes of data, but its shape and type need {needed}",
            where=str(path),
            hint="Save the model again.",
        )
    if offset + length > size:
        raise InputError(
            f"{where} needs bytes {offset} to {offset + length} of a file of {size} bytes",
            where=str(path),
            hint="The data file is cut short or belongs to another model; copy it again.",
        )
    return path


def _inside(location: str, folder: Path, where: str) -> tuple[Path, int]:
    """Return the path of a data file and how many bytes it has."""
    pure = PurePosixPath(location)
    leaves = ".." in pure.parts or pure.is_absolute() or PureWindowsPath(location).is_absolute()
    if not location or "\0" in location or leaves or location.startswith("*/"):
        raise InputError(
            f"{where} has its data at {location!r}, which is not inside the model's folder",
            where=str(folder),
            hint="External data must stand beside the model; save the model again.",
        )
    with opened_inside(folder, location, f"the external data of {where}") as (_, file):
        return folder / location, os.fstat(file.fileno()).st_size


def _whole_number(text: str, key: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _LONGEST_NUMBER:
        raise InputError(f"{where} has {key} {text[:24]!r}, expected a whole number")
    return int(text)

"""Weights that stay on the disk until someone reads them.

A lazily read model (`_graph.io.models.read_lazily`) names, for each large tensor, the absolute path
of its data file and the place in it. `array_of` maps those bytes. Nothing here copies a weight
unless it says so.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qgraph._graph.bodies import copied
from qgraph._graph.errors import InputError
from qgraph._graph.halves import cast
from qgraph._graph.io.datafile import identity_of, opened_inside, reopened
from qgraph._graph.io.rescaling import is_rescaled, mixes_rows, rescaled, steps_of
from qgraph._graph.tensors import Array, pieces

SMALL = 1 << 16
"""Tensors of fewer bytes are loaded with the graph: shape arithmetic and fusions look at them."""
EXTERNAL_TENSOR = 1024
"""Tensors of fewer bytes stay in the model when the others move to a data file."""
PAGE = 4096
"""Where the tensors of a data file begin: at what can be mapped."""
LAZY = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
"""Types of which large tensors stay on the disk."""
_ELSEWHERE = "held by the caller"
_FILE = "qgraph.file"
"""Key of what the data file was when it was checked (`_graph.io.datafile`)."""
_THROUGH = "qgraph.through"
"""Key that lists the types that values pass through on their way to the one the model declares, the
one the file holds first."""
BITS: dict[int, int] = {
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.UINT2: 2,
    TensorProto.INT2: 2,
}
"""Types of which a byte holds more than one value."""


def is_on_disk(tensor: TensorProto) -> bool:
    """Return whether the values of `tensor` lie in a data file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def bytes_of_shape(tensor: TensorProto) -> int:
    """Return the bytes that the values of a tensor of this type and shape take."""
    count = int(math.prod(tensor.dims))
    if tensor.data_type in BITS:
        return -(-count * BITS[tensor.data_type] // 8)
    dtype: np.dtype[np.generic] = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return count * dtype.itemsize


def size_of(tensor: TensorProto) -> int:
    """Return the bytes of a tensor's values in the type it declares."""
    if is_on_disk(tensor):
        return bytes_of_shape(tensor)
    return len(tensor.raw_data) or tensor.ByteSize()


def constants_among(model: onnx.ModelProto, names: Collection[str]) -> dict[str, Array]:
    """Return the values, in memory, of those of `names` that are initializers, such as an output
    that folds to a constant: no node makes it.
    """
    return {
        tensor.name: np.array(array_of(tensor))
        for tensor in model.graph.initializer
        if tensor.name in names
    }


def array_of(tensor: TensorProto) -> Array:
    """Return the values of `tensor`; those on the disk are mapped, read-only.

    Raises:
        InputError: the data file is gone or was cut short since the model was read.
    """
    if not is_on_disk(tensor):
        return numpy_helper.to_array(tensor)
    if tensor.data_type in BITS:
        inline = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        inline.raw_data = mapped_bytes(tensor).tobytes()
        return numpy_helper.to_array(inline)
    return _as_declared(tensor, _as_stored(tensor), slice(None))


def _as_stored(tensor: TensorProto) -> Array:
    """Return the values that the file holds, in the type they have there."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(_types(tensor)[0]))
    stored: Array = mapped_bytes(tensor).view(dtype).reshape(tuple(tensor.dims))
    return stored


def _as_declared(tensor: TensorProto, stored: Array, rows: slice) -> Array:
    """Return `stored`, which are these rows of `tensor`, rescaled and in the declared type."""
    values = rescaled(tensor, stored, rows)
    for item in _types(tensor)[1:]:
        values = cast(values, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(item)))
    return values


def bytes_of(tensor: TensorProto) -> memoryview:
    """Return the bytes of a tensor's values: those it holds, or those on the disk, read-only.

    Raises:
        InputError: the data file is gone or was cut short since the model was read.
    """
    if not is_on_disk(tensor):
        return memoryview(tensor.raw_data)
    if _is_changed(tensor):
        return raw(array_of(tensor))
    return mapped_bytes(tensor).data


def content_of(tensor: TensorProto) -> bytes:
    """Return a digest that tensors have in common only if they have the same values: of those it
    holds, or of where they lie and how they are changed when they are read.
    """
    nameless = copied(tensor)
    nameless.ClearField("name")
    return hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()


def parts_of(tensor: TensorProto) -> Iterator[memoryview]:
    """Yield the bytes of `bytes_of`; values that are made on reading come a few rows at a time.

    Raises:
        InputError: the data file is gone or was cut short since the model was read.
    """
    if not is_on_disk(tensor) or not _is_changed(tensor) or mixes_rows(tensor):
        yield bytes_of(tensor)
        return
    at = 0
    for part in pieces(_as_stored(tensor)):
        rows = slice(at, at + len(part))
        yield raw(_as_declared(tensor, part, rows))
        at = rows.stop


def raw(values: Array) -> memoryview:
    """Return the bytes of an array that is no scalar, in order; copied only where they lie in
    another.
    """
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _is_changed(tensor: TensorProto) -> bool:
    """Return whether a tensor on the disk has other values than the file holds."""
    return is_rescaled(tensor) or len(_types(tensor)) > 1


def mapped_bytes(tensor: TensorProto) -> Array:
    """Return the bytes of a tensor on the disk, uint8 and read-only.

    Raises:
        InputError: the data file is gone or was cut short since the model was read.
    """
    path, offset, length = _place(tensor)
    if not length:
        return np.empty(0, np.uint8)
    start = offset % mmap.ALLOCATIONGRANULARITY
    try:
        with reopened(path, _entry(tensor, _FILE)) as file:
            mapping = mmap.mmap(
                file.fileno(), length + start, access=mmap.ACCESS_READ, offset=offset - start
            )
    except (OSError, ValueError) as error:
        raise InputError(
            f"the data of tensor {tensor.name!r} cannot be read: {error}",
            where=str(path),
            hint="The file changed since the model was opened; leave it alone during a run.",
        ) from error
    return np.frombuffer(mapping, np.uint8, length, start)


def load(tensor: TensorProto) -> None:
    if is_on_disk(tensor):
        data = bytes(bytes_of(tensor))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with every weight in it: itself if none is on the disk, else a copy."""
    if not any(map(is_on_disk, model.graph.initializer)):
        return model
    full = copied(model)
    for tensor in full.graph.initializer:
        load(tensor)
    return full


def point_into(tensors: Iterable[TensorProto], folder: Path) -> None:
    """Make the locations of `tensors` absolute, and their offsets and lengths explicit; they are
    read from the files that lie there now, and from no others.

    Raises:
        InputError: one lies outside `folder`, or is no regular file.
    """
    files: dict[str, tuple[Path, str]] = {}
    for tensor in tensors:
        location, offset, length = _place(tensor)
        name = str(location)
        if name not in files:
            what = f"the external data of tensor {tensor.name!r}"
            with opened_inside(folder, name, what) as (path, file):
                files[name] = path, identity_of(file)
        path, identity = files[name]
        place(tensor, path, offset, length, identity)


def place(
    tensor: TensorProto, location: str | Path, offset: int, length: int, identity: str = ""
) -> None:
    """Say where the values of `tensor` lie, and drop those it holds. `identity`: of the file, where
    it is not one of our own.
    """
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in (entries | ({_FILE: identity} if identity else {})).items():
        tensor.external_data.add(key=key, value=str(value))


def location_of(tensor: TensorProto) -> Path:
    """Return the data file of a tensor on the disk."""
    return _place(tensor)[0]


def relocate(tensor: TensorProto, location: str | Path) -> None:
    """Say that the data file of a tensor on the disk is called otherwise."""
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = str(location)


def retype_on_reading(tensor: TensorProto, data_type: int) -> None:
    """Declare a tensor on the disk as of another type; values are converted when they are read."""
    steps, through = steps_of(tensor), ",".join(map(str, _types(tensor)))
    place(tensor, *_place(tensor), _entry(tensor, _FILE))
    tensor.external_data.extend(steps)
    tensor.external_data.add(key=_THROUGH, value=through)
    tensor.data_type = data_type


def stub(name: str, data_type: int, dims: Sequence[int]) -> TensorProto:
    """Return an initializer whose values its caller hands to the runtime when a session opens."""
    made = TensorProto(name=name, data_type=data_type, dims=dims)
    place(made, _ELSEWHERE, 0, bytes_of_shape(made))
    return made


def _place(tensor: TensorProto) -> tuple[Path, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    size = int(length) if length else bytes_of_shape(tensor)
    return Path(entries["location"]), int(entries.get("offset", 0)), size


def _types(tensor: TensorProto) -> list[int]:
    """Return the types that values pass through: as the file holds them first, as declared last."""
    before = _entry(tensor, _THROUGH)
    return [*map(int, before.split(",") if before else ()), int(tensor.data_type)]


def _entry(tensor: TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")

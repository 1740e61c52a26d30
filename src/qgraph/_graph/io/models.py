"""Reading and writing ONNX files: with `_graph.io.parsing` the only place that parses or serializes
protobuf.

Weights above a threshold go to one data file beside the model. Its name carries a piece of its
own SHA-256, so that a model file always names exactly the bytes it was written with, and replacing
a model cannot tear it from its weights.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from qgraph._graph.bodies import copied
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.io.datafile import identity_of, opened_inside
from qgraph._graph.io.documents import Part
from qgraph._graph.io.external import (
    external_files,
    external_tensors,
    inner_external_tensors,
    require_whole,
)
from qgraph._graph.io.files import require_file, sha256_of, sha256_of_open, write_bytes, write_named
from qgraph._graph.io.foldable import load_foldable
from qgraph._graph.io.outline import Outline, outline
from qgraph._graph.io.parsing import check_basics, parse
from qgraph._graph.io.weights import (
    EXTERNAL_TENSOR,
    PAGE,
    SMALL,
    bytes_of,
    bytes_of_shape,
    is_on_disk,
    load,
    place,
    point_into,
    relocate,
    size_of,
    with_weights,
)

EXTERNAL_ABOVE = 64 << 20
"""A model whose weights exceed this many bytes gets a data file."""
_PROTOBUF_LIMIT = (2 << 30) - 1
_DIGEST = re.compile(r"[0-9a-f]{12}")


class ModelId(Part):
    """Names a model by content: `sha256` covers the graph and every weight."""

    path: str
    sha256: str


def read_model(path: Path, *, weights: bool = True) -> onnx.ModelProto:
    """Return the model in `path`; with `weights`, its external data loaded into it.

    Raises:
        InputError: not an ONNX model, cut short, or its external data cannot be used.
    """
    model = parse(require_file(path, "ONNX model"))
    check_basics(model, path)
    external_files(model, path.parent)
    if weights:
        outside = list(external_tensors(model))
        point_into(outside, path.parent)
        for tensor in outside:
            load(tensor)
    for tensor in model.graph.initializer:
        require_whole(tensor, str(path))
    return model


def read_lazily(path: Path) -> onnx.ModelProto:
    """Return the model in `path` with its large weights left on the disk (`_graph.io.weights`).

    What is small, or read by nodes that only read constants, is loaded: folding computes with it.
    Of a large file, that goes for the weights inside it, too.

    Raises:
        InputError: not an ONNX model, cut short, or its external data cannot be used.
    """
    model = _left_on_disk(path)
    load_foldable(model)
    return model


def read_on_disk(path: Path) -> onnx.ModelProto:
    """Return the model in `path` with every large initializer left on the disk, whoever reads it.

    Raises:
        InputError: not an ONNX model, cut short, or its external data cannot be used.
    """
    model = _left_on_disk(path)
    for tensor in model.graph.initializer:
        if size_of(tensor) < SMALL:
            load(tensor)
    return model


def _outlined(path: Path) -> Outline:
    """Return the message in `path`; a small file is parsed as it is."""
    if require_file(path, "ONNX model").stat().st_size <= EXTERNAL_ABOVE:
        return Outline(parse(path))
    return outline(path)


def _left_on_disk(path: Path) -> onnx.ModelProto:
    """Return the model in `path`, checked; of initializers, what lies in files is not loaded."""
    found = _outlined(path)
    model = found.model
    check_basics(model, path)
    external_files(model, path.parent)
    point_into(external_tensors(model), path.parent)
    for tensor in inner_external_tensors(model):
        load(tensor)
    for tensor, offset in found.inside:
        place(tensor, path.resolve(), offset, bytes_of_shape(tensor), found.identity)
    for tensor in model.graph.initializer:
        require_whole(tensor, str(path))
    return model


def identify(path: Path) -> ModelId:
    """Return the identity of the model in `path`: hash of its file and of each data file."""
    digest = hashlib.sha256(bytes.fromhex(sha256_of(path)))
    for file in _opened_data(path):
        digest.update(sha256_of_open(file))
    return ModelId(path=path.name, sha256=digest.hexdigest())


def data_files(path: Path) -> list[Path]:
    """Return the data files that the model in `path` names.

    Raises:
        InputError: not an ONNX model, or a data file cannot be used.
    """
    return external_files(_outlined(require_file(path, "ONNX model")).model, path.parent)


def data_identities(path: Path) -> list[str]:
    """Return what the data files of the model in `path` are now (`_graph.io.datafile`).

    Raises:
        InputError: not an ONNX model, or a data file cannot be used.
    """
    return list(map(identity_of, _opened_data(path)))


def _opened_data(path: Path) -> Iterator[BufferedReader]:
    """Yield the data files that the model in `path` names, each open until the next."""
    for data in data_files(path):
        name = data.relative_to(path.parent).as_posix()
        with opened_inside(path.parent, name, "its external data") as (_, file):
            yield file


def size_on_disk(path: Path) -> int:
    """Return the bytes of the model file and of what it reads of its data files, which other
    models may share.
    """
    model = _outlined(path).model
    external_files(model, path.parent)
    read: dict[tuple[str, int], int] = {}
    for tensor in external_tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        start = (entries["location"], int(entries.get("offset", 0)))
        whole = (path.parent / entries["location"]).stat().st_size - start[1]
        read[start] = int(entries.get("length", whole))
    return path.stat().st_size + sum(read.values())


def write_model(
    model: onnx.ModelProto, path: Path, *, external_above: int = EXTERNAL_ABOVE
) -> None:
    """Write `model` to `path` atomically, large weights to a data file beside it.

    `model` itself is left as it was. A data file that an older model of this name used is removed.
    """
    if sum(size_of(tensor) for tensor in model.graph.initializer) <= external_above:
        write_bytes(path, with_weights(model).SerializeToString(deterministic=True))
    else:
        _write_with_data(model, path)
    drop_stale_data(path)


def drop_stale_data(path: Path) -> None:
    """Remove data files that earlier versions of the model in `path` left beside it."""
    drop_unread(path.parent, _data_files_of(path))


def drop_unread(folder: Path, candidates: set[Path]) -> None:
    """Remove those of `candidates` that no model in `folder` reads any more."""
    if not candidates:
        return
    read: set[Path] = set()
    for path in folder.glob("*.onnx"):
        try:
            read |= set(data_files(path))
        except InputError:  # a model that cannot be read may still need its data
            return
    for path in candidates - read:
        with contextlib.suppress(OSError):
            path.unlink()


def _data_files_of(path: Path) -> set[Path]:
    """Return the files that `write_model` may have made for `path`, now or before."""
    beside = path.parent.glob(f"{glob.escape(path.stem)}-*.data")
    return {file for file in beside if _DIGEST.fullmatch(file.stem.removeprefix(f"{path.stem}-"))}


def to_bytes(model: onnx.ModelProto, *, weights: bool = True) -> bytes:
    """Return `model` serialized; with `weights`, those on the disk loaded into it.

    Raises:
        LimitError: it does not fit into one protobuf message (2 GB).
    """
    held = [item for item in model.graph.initializer if weights or not is_on_disk(item)]
    total = sum(map(size_of, held))
    if total >= _PROTOBUF_LIMIT:
        raise LimitError(
            f"the graph holds {total >> 20} MiB of weights; one message takes 2048 MiB",
            hint="Models of this size are not supported here yet.",
        )
    full = with_weights(model) if weights else model
    return bytes(full.SerializeToString(deterministic=True))


def tensor_from(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    """Return `array` as an initializer called `name`."""
    # not np.ascontiguousarray, which makes a vector of a scalar
    return onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)


def _write_with_data(model: onnx.ModelProto, path: Path) -> None:
    older = _data_files_of(path)
    slim = copied(model)

    def fill(temporary: Path) -> str:
        return f"{path.stem}-{_move_weights(slim, temporary)[:12]}.data"

    data = write_named(path.parent, fill)
    for tensor in filter(is_on_disk, slim.graph.initializer):
        relocate(tensor, data.name)
    try:
        write_bytes(path, slim.SerializeToString(deterministic=True))
    except BaseException:
        if data not in older:
            data.unlink(missing_ok=True)
        raise


def _move_weights(model: onnx.ModelProto, target: Path) -> str:
    """Move large initializers to `target`; return the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for tensor in model.graph.initializer:
            data = bytes_of(tensor)
            if len(data) < EXTERNAL_TENSOR:
                load(tensor)
                continue
            padding = b"\0" * (-file.tell() % PAGE)
            for part in (padding, data):
                file.write(part)
                digest.update(part)
            place(tensor, "", file.tell() - len(data), len(data))
    return digest.hexdigest()

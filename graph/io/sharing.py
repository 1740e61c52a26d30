"""Several models in one folder that hold each tensor once.

Profiles of one model differ in little: each weight is there as floats, as integers, or both.
Written together, their large tensors go to one data file, found again by content. (One file with
several readers, never a hard link: onnx refuses those.)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx

from graph.errors import InputError
from graph.io.external import external_files
from graph.io.files import write_bytes, write_named
from graph.io.models import EXTERNAL_ABOVE, drop_stale_data, read_model
from graph.io.weights import bytes_of, load, place

STEM = "shared"
_EXTERNAL_TENSOR = 1024
_ALIGNMENT = 4096


@dataclass(slots=True)
class _Pool:
    """A data file being written: where each content lies in it, and the digest of it all."""

    file: BinaryIO
    places: dict[bytes, int] = field(default_factory=dict)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def place(self, data: memoryview) -> int:
        """Return the offset of `data`, written if it is new."""
        key = hashlib.sha256(data).digest()
        if key not in self.places:
            padding = b"\0" * (-self.file.tell() % _ALIGNMENT)
            self.places[key] = self.file.tell() + len(padding)
            self.file.write(padding)
            self.file.write(data)
            self.digest.update(key)
        return self.places[key]


def write_models(
    models: Iterable[tuple[Path, onnx.ModelProto]],
    folder: Path,
    *,
    external_above: int = EXTERNAL_ABOVE,
) -> list[Path]:
    """Write models to paths in `folder`, tensors of the same content once; return the paths.

    Models are taken one by one, and their weights let go of before the next is asked for. Where all
    of them together hold at most `external_above` bytes, each is one file and nothing is shared. No
    model appears unless all could be made. The models given are emptied of their weights.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    slims: list[tuple[Path, onnx.ModelProto]] = []

    def fill(temporary: Path) -> str:
        with temporary.open("wb") as file:
            pool = _Pool(file)
            for path, model in models:
                _move(model, pool)
                slims.append((path, _compact(model)))
                del model  # before the next is made
            return f"{STEM}-{pool.digest.hexdigest()[:12]}.data"

    older = set(folder.glob(f"{STEM}-*.data")) if folder.is_dir() else set()
    data = write_named(folder, fill)
    inline = data.stat().st_size <= external_above
    try:
        for path, model in slims:
            _bring_back(model, data) if inline else _locate(model, data.name)
            write_bytes(path, model.SerializeToString(deterministic=True))
            model.Clear()
            drop_stale_data(path)
    finally:
        _drop_unread(folder, older | {data})
    return [path for path, _ in slims]


def _move(model: onnx.ModelProto, pool: _Pool) -> None:
    """Move large initializers to the pool, in place."""
    for tensor in model.graph.initializer:
        held = bytes_of(tensor)
        if len(held) < _EXTERNAL_TENSOR:
            load(tensor)
        else:
            place(tensor, "", pool.place(held), len(held))


def _compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same model: a message keeps the memory of what it held for as long as it lives."""
    fresh = onnx.ModelProto()
    fresh.ParseFromString(model.SerializeToString())
    return fresh


def _locate(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not entry.value:
                entry.value = name


def _bring_back(model: onnx.ModelProto, data: Path) -> None:
    with data.open("rb") as file:
        for tensor in model.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries.get("location") == "":
                file.seek(int(entries["offset"]))
                tensor.raw_data = file.read(int(entries["length"]))
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")


def _drop_unread(folder: Path, candidates: set[Path]) -> None:
    """Remove shared data files that no model in the folder reads any more."""
    read: set[Path] = set()
    for path in folder.glob("*.onnx"):
        try:
            read |= set(external_files(read_model(path, weights=False), folder))
        except InputError:  # a model that cannot be read may still need its data
            return
    for path in candidates - read:
        with contextlib.suppress(OSError):
            path.unlink()

"""Several models in one folder that hold each tensor once.

Profiles of one model differ in little: each weight is there as floats, as integers, or both.
Written together, their large tensors go to one data file, found again by content. (One file with
several readers, never a hard link: onnx refuses those.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import onnx

from qgraph._graph.io.files import write_named, write_together
from qgraph._graph.io.models import EXTERNAL_ABOVE, drop_stale_data, drop_unread
from qgraph._graph.io.pool import Pool
from qgraph._graph.io.weights import is_on_disk, load, relocate

STEM = "shared"
SHARED_ABOVE = 16 << 20
"""Models written together share a data file where they would fill this many bytes of it. Below,
four files that need no other take 64 MiB at most, and the graphs themselves weigh as much as
what would be saved."""

Made = Callable[[Pool], Iterable[tuple[Path, onnx.ModelProto]]]
"""Makes models, with their paths, one by one; they may leave weights in the pool."""


def write_models(make: Made, folder: Path, *, shared_above: int = SHARED_ABOVE) -> list[Path]:
    """Write models to paths in `folder`, tensors of the same content once; return the paths.

    Models are taken one by one, and their weights let go of before the next is asked for. Several
    that would share more than `shared_above` bytes read one data file, as does one that holds more
    than `EXTERNAL_ABOVE`; others are one file each. No model appears, nor replaces an older one,
    unless all could be made and written. The models given are emptied of their weights.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    slims: list[tuple[Path, onnx.ModelProto]] = []

    def fill(temporary: Path) -> str:
        with Pool(temporary) as pool:
            for path, model in make(pool):
                for tensor in model.graph.initializer:
                    pool.take(tensor)
                slims.append((path, _compact(model)))
                del model  # before the next is made
            return f"{STEM}-{pool.sha256[:12]}.data"

    def placed(model: onnx.ModelProto) -> bytes:
        for tensor in filter(is_on_disk, model.graph.initializer):
            relocate(tensor, data if inline else data.name)
            if inline:
                load(tensor)
        content = model.SerializeToString(deterministic=True)
        model.Clear()
        return bytes(content)

    older = set(folder.glob(f"{STEM}-{'[0-9a-f]' * 12}.data")) if folder.is_dir() else set()
    data = write_named(folder, fill)
    inline = data.stat().st_size <= (shared_above if len(slims) > 1 else EXTERNAL_ABOVE)
    try:
        write_together(folder, ((path.name, placed(model)) for path, model in slims))
        for path, _ in slims:
            drop_stale_data(path)
    finally:
        drop_unread(folder, older | {data})
    return [path for path, _ in slims]


def _compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same model: a message keeps the memory of what it held for as long as it lives."""
    fresh = onnx.ModelProto()
    fresh.ParseFromString(model.SerializeToString())
    return fresh

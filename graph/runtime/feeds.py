"""What goes into a model: one `Feed` per sample.

Arrays come from `.npz` files or, when there is no data at all, are made up from the shapes the
model declares. Raw data (text, images) is a family's business and never seen here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graph.errors import InputError, LimitError
from graph.io.files import require_file
from graph.tensors import Array, Feed, TensorSpec

_LARGEST_ARRAY = 8 << 30
_UNREADABLE = (
    # zipfile: damaged, encrypted, or packed in a way Python does not know
    *(zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError),
    # numpy: objects, cut short, a header that promises more than memory holds
    *(ValueError, OSError, EOFError, MemoryError),
)
_SYNTHETIC_LENGTHS = {"batch": 1, "past": 0}
_SYNTHETIC_DYNAMIC = 32


def read_npz(path: Path, inputs: Sequence[TensorSpec]) -> list[Feed]:
    """Return one feed per sample of an `.npz` file, or of each file in a folder of them.

    Samples lie along the first axis, or along the input's dynamic batch axis where that is another.
    An input without axes is the same for every sample.

    Raises:
        InputError: arrays are missing, unknown, of the wrong type, or of unequal sample counts.
        LimitError: an array is larger than 8 GiB.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        return [feed for file in files for feed in read_npz(file, inputs)]
    arrays = _read_arrays(require_file(path, "NumPy archive"))
    _check_names(path, arrays, inputs)
    given = [spec for spec in inputs if spec.name in arrays]
    for spec in given:
        _check_array(path, spec, arrays[spec.name])
    counts = {
        spec.name: arrays[spec.name].shape[sample_axis(spec)] // _rows(spec)
        for spec in given
        if spec.shape
    }
    if len(set(counts.values())) > 1:
        raise InputError(f"the arrays differ in their number of samples: {counts}", where=str(path))
    return [_sample(arrays, given, index) for index in range(min(counts.values(), default=0))]


def synthetic_feeds(inputs: Sequence[TensorSpec], count: int, seed: int = 0) -> list[Feed]:
    """Return made-up feeds: standard normal floats, ones for integers and masks.

    They make every engine run; what it then says about a real model is only a rough guide.
    """
    generator = np.random.default_rng(seed)
    return [{spec.name: _synthetic(spec, generator) for spec in inputs} for _ in range(count)]


def _synthetic(spec: TensorSpec, generator: np.random.Generator) -> Array:
    shape = tuple(size if isinstance(size, int) else _made_up(size) for size in spec.shape)
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    return np.ones(shape, spec.dtype)


def _made_up(name: str) -> int:
    for part, size in _SYNTHETIC_LENGTHS.items():
        if part in name and "+" not in name:
            return size
    return _SYNTHETIC_DYNAMIC


def _read_arrays(path: Path) -> Feed:
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if item.file_size > _LARGEST_ARRAY:
                    raise LimitError(f"array {item.filename!r} exceeds 8 GiB", where=str(path))
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise InputError(f"not a readable .npz file: {error}", where=str(path)) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"{name!r} in the archive is no NumPy array", where=str(path))
    return arrays


def _check_names(path: Path, arrays: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> None:
    expected = {spec.name for spec in inputs}
    unknown = sorted(arrays.keys() - expected)
    missing = sorted(name for name in expected - arrays.keys() if not is_cache(name))
    if unknown or missing or not arrays:
        raise InputError(
            f"found arrays {sorted(arrays)}, expected {sorted(expected)}"
            f" (missing {missing}, unknown {unknown})",
            where=str(path),
            hint="Save one array per model input; cache inputs may be left out.",
        )


def is_cache(name: str) -> bool:
    """Return whether an input carries a decoder's key/value cache, by the ONNX community's name."""
    return name.startswith("past_key_values")


def _check_array(path: Path, spec: TensorSpec, array: Array) -> None:
    fits = array.ndim == len(spec.shape) and all(
        isinstance(want, str) or axis == sample_axis(spec) or want == have
        for axis, (want, have) in enumerate(zip(spec.shape, array.shape, strict=False))
    )
    if array.dtype != spec.dtype or not fits:
        raise InputError(
            f"array {spec.name!r} is {array.dtype} {list(array.shape)},"
            f" expected {spec.dtype} {list(spec.shape)}",
            where=str(path),
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"array {spec.name!r} holds NaN or infinity", where=str(path))


def sample_axis(spec: TensorSpec) -> int:
    """Return the first dynamic axis named like a batch, else 0."""
    named = (axis for axis, size in enumerate(spec.shape) if isinstance(size, str))
    return next((axis for axis in named if "batch" in str(spec.shape[axis])), 0)


def _rows(spec: TensorSpec) -> int:
    """Return how many rows one run takes: those of a fixed batch, else one."""
    size = spec.shape[sample_axis(spec)]
    return size if isinstance(size, int) and size > 0 else 1


def _places(spec: TensorSpec, index: int) -> range:
    return range(index * _rows(spec), (index + 1) * _rows(spec))


def _sample(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], index: int) -> Feed:
    return {
        spec.name: np.ascontiguousarray(
            np.take(arrays[spec.name], _places(spec, index), axis=sample_axis(spec))
        )
        if spec.shape
        else arrays[spec.name]
        for spec in specs
    }


def fill_cache(feed: Feed, inputs: Sequence[TensorSpec]) -> Feed:
    """Return `feed` with every cache input it lacks added at length 0 (a prefill)."""
    missing = [spec for spec in inputs if spec.name not in feed and is_cache(spec.name)]
    batch = len(next(iter(feed.values()))) if feed else 1
    embeds = feed.get("inputs_embeds", feed.get("input_ids"))
    batch = batch if embeds is None else embeds.shape[0]
    empty = {spec.name: np.zeros(_empty_cache(spec, batch), spec.dtype) for spec in missing}
    return feed | empty


def _empty_cache(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    sizes = [size if isinstance(size, int) else 0 for size in spec.shape]
    axis = sample_axis(spec)
    if sizes and isinstance(spec.shape[axis], str):
        sizes[axis] = batch
    return tuple(sizes)

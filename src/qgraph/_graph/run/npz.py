"""Samples from NumPy archives, read one by one: an archive may be larger than memory.

Headers say at once what is wrong with names, types and shapes; values are looked at as they come.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.io.files import require_file
from qgraph._graph.run.feeds import WHOLE, SampleLayout, is_cache, layout_in, leading_names, takes
from qgraph._graph.tensors import Array, Feed, TensorSpec, is_float

LABELS = "labels"
"""Name of the array that holds the right class of each sample, where no input is called so."""
ONLY = "arr_0"
"""What numpy calls an array that was given no name: it is the only input's."""
_CONVERT = "Convert it, as with array.astype('{}')."
_IN_FILES = {"bfloat16": (np.dtype(np.float32), np.dtype("V2"))}
"""How numbers lie in files that NumPy has no type for: as wider ones, or as unnamed bytes."""
_RESHAPE = (
    "Samples lie along the batch axis, or along one axis more in front; the other axes must be the"
    " model's, in its order."
)
_LARGEST_ARRAY = 8 << 30
_PIECE = 1 << 20
"""Bytes unpacked at a time: they are held twice."""
_UNREADABLE = (
    # zipfile: damaged, encrypted, or packed in a way Python does not know
    *(zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError),
    # numpy: objects, cut short, a header that promises more than memory holds
    *(ValueError, OSError, EOFError, MemoryError),
)
_FORMAT: Any = np.lib.format
"""Which numpy leaves without types."""
_HEADERS = {(1, 0): _FORMAT.read_array_header_1_0, (2, 0): _FORMAT.read_array_header_2_0}


def is_npz(path: Path) -> bool:
    """Return whether data is an `.npz` file, or a folder with some in it."""
    return path.suffix == ".npz" or any(path.glob("*.npz"))


def iterate_npz(path: Path, inputs: Sequence[TensorSpec]) -> Iterator[Feed]:
    """Yield one feed per sample of an `.npz` file, or of each file in a folder of them.

    Samples lie along the first axis, or along the input's dynamic batch axis where that is another;
    an array with an axis more than the input is a stack of samples, along the first. An input
    without axes may be one number for every sample. In a folder, a file whose arrays hold no equal
    number of samples, but are what the model takes, is one sample. An array without a name, as
    numpy saves it, is the only input's.

    Raises:
        InputError: arrays are missing, unknown, of the wrong type, or of unequal sample counts.
        LimitError: an array is larger than 8 GiB.
    """
    for file in files_in(path):
        with _opened(file, inputs, alone=path.is_dir()) as laid_out:
            yield from laid_out.samples(file)


def files_in(path: Path) -> list[Path]:
    """Return the `.npz` files of a folder in their order, or the file itself."""
    return sorted(path.glob("*.npz")) if path.is_dir() else [path]


def rows_in(path: Path, inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """Return how many rows `iterate_npz` takes, and how many it leaves out, as they make no whole
    sample of a model with a fixed batch. Only headers are read.

    Raises:
        InputError: as `iterate_npz`.
    """
    taken = left = 0
    for file in files_in(path):
        with _opened(file, inputs, alone=True) as laid_out:
            found = laid_out.rows()
        taken, left = taken + found[0], left + found[1]
    return taken, left


def read_array(path: Path, name: str) -> Array | None:
    """Return an array of an `.npz` file, or None where it has none of that name.

    Raises:
        InputError: the file cannot be read.
        LimitError: the array is larger than 8 GiB.
    """
    with _readable(path), zipfile.ZipFile(require_file(path, "NumPy archive")) as archive:
        infos = [i for i in archive.infolist() if i.filename.removesuffix(".npy") == name]
        if not infos:
            return None
        if infos[0].file_size > _LARGEST_ARRAY:
            raise LimitError(f"array {name!r} exceeds 8 GiB", where=str(path))
        with archive.open(infos[0]) as stream:
            found = _Array(cast("zipfile.ZipExtFile", stream), infos[0])
            return found.take(WHOLE, 0)


@contextmanager
def _opened(path: Path, inputs: Sequence[TensorSpec], *, alone: bool) -> Iterator[_LaidOut]:
    """Open a file; `alone`: it may be a single sample."""
    file = require_file(path, "NumPy archive")
    with _readable(path), zipfile.ZipFile(file) as archive, ExitStack() as opened:
        arrays: dict[str, _Array] = {}
        for info in archive.infolist():
            if info.file_size > _LARGEST_ARRAY:
                raise LimitError(f"array {info.filename!r} exceeds 8 GiB", where=str(path))
            stream = cast("zipfile.ZipExtFile", opened.enter_context(archive.open(info)))
            arrays[info.filename.removesuffix(".npy")] = _Array(stream, info)
        _name_the_only(arrays, inputs)
        _check_names(path, arrays, inputs)
        given = {spec.name: spec for spec in inputs if spec.name in arrays}
        leading = leading_names(inputs)
        layouts = {name: _layout(path, spec, arrays[name], leading) for name, spec in given.items()}
        counts = {name: item.count for name, item in layouts.items() if item.count is not None}
        if len(set(counts.values())) > 1:
            if not (alone and all(takes(spec, arrays[name].shape) for name, spec in given.items())):
                raise InputError(
                    f"the arrays differ in their number of samples: {counts}",
                    where=str(path),
                    hint="Give a folder with one .npz for each sample, its arrays of the shapes"
                    " that the model takes.",
                )
            layouts, counts = dict.fromkeys(given, WHOLE), {}
        kinds = {name: spec.dtype for name, spec in given.items()}
        yield _LaidOut(arrays, layouts, kinds, min(counts.values(), default=1))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what readers raise about `path` into an InputError."""
    try:
        yield
    except _UNREADABLE as error:
        raise InputError(
            f"not a readable .npz file: {error}",
            where=str(path),
            hint="Write it anew with numpy.savez: arrays of numbers, no lists and no None.",
        ) from error


@dataclass(frozen=True, slots=True)
class _LaidOut:
    """The arrays of a file and, of those that are inputs, how `count` samples lie in them."""

    arrays: Mapping[str, _Array]
    layouts: Mapping[str, SampleLayout]
    kinds: Mapping[str, np.dtype[Any]]
    count: int

    def rows(self) -> tuple[int, int]:
        """Return how many rows make samples, and how many are left over."""
        cut = {n: item for n, item in self.layouts.items() if item.count and not item.is_stacked}
        left = [self.arrays[n].shape[item.axis] % item.rows for n, item in cut.items()]
        return self.count * max((item.rows for item in cut.values()), default=1), max(
            left, default=0
        )

    def samples(self, path: Path) -> Iterator[Feed]:
        """Yield one feed per sample, then check what was not asked for."""
        for index in range(self.count):
            feed = {
                name: _typed(self.arrays[name].take(layout, index), self.kinds[name])
                for name, layout in self.layouts.items()
            }
            _check_finite(path, feed)
            yield feed
        for array in self.arrays.values():
            array.finish()


class _Array:
    """An array of an archive: its header is read, its values when they are asked for.

    Samples that lie one behind the other are read one by one; else the whole array is held.
    """

    def __init__(self, stream: zipfile.ZipExtFile, info: zipfile.ZipInfo) -> None:
        self._stream = stream
        self._whole: Array | None = None
        if stream.peek(len(_FORMAT.MAGIC_PREFIX))[:6] != _FORMAT.MAGIC_PREFIX:
            raise ValueError(f"{info.filename!r} is no NumPy array")
        version = _FORMAT.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"found version {version} of NumPy's format, expected 1.0 or 2.0")
        self.shape, self._is_reversed, self.dtype = _HEADERS[version](stream)
        if self.dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        if stream.tell() + prod(self.shape) * self.dtype.itemsize != info.file_size:
            raise ValueError(f"{info.filename!r} does not hold the {self.shape} that it promises")

    def take(self, layout: SampleLayout, index: int) -> Array:
        """Return sample number `index`, the one after the last that was taken."""
        if layout.count is not None and layout.axis == 0 and not self._is_reversed:
            rest = self.shape[1:]
            return self._next(rest if layout.is_stacked else (layout.rows, *rest))
        if self._whole is None:
            reverse = self._is_reversed
            self._whole = self._next(self.shape[::-1]).T if reverse else self._next(self.shape)
        if layout.count is None:
            return self._whole
        if layout.is_stacked:
            return np.asarray(self._whole[index], order="C")
        places = range(index * layout.rows, (index + 1) * layout.rows)
        return np.ascontiguousarray(np.take(self._whole, places, axis=layout.axis))

    def _next(self, shape: tuple[int, ...]) -> Array:
        array = np.empty(shape, self.dtype)
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            if self._stream.readinto(piece) < len(piece):
                raise EOFError("an array is cut short")
        return array

    def finish(self) -> None:
        """Read what is left over: at the end the checksum of all is compared."""
        while self._stream.read(_PIECE):
            pass


def _name_the_only(arrays: dict[str, _Array], inputs: Sequence[TensorSpec]) -> None:
    """Call an array without a name after the input, where there is one alone."""
    names = [spec.name for spec in inputs if not is_cache(spec.name)]
    if len(names) == 1 and ONLY in arrays and names[0] not in arrays:
        arrays[names[0]] = arrays.pop(ONLY)


def _check_names(path: Path, arrays: Mapping[str, _Array], inputs: Sequence[TensorSpec]) -> None:
    expected = {spec.name for spec in inputs}
    unknown = sorted(arrays.keys() - expected - {LABELS})
    missing = sorted(name for name in expected - arrays.keys() if not is_cache(name))
    if unknown or missing or not arrays.keys() & expected:
        raise InputError(
            f"found arrays {sorted(arrays)}, expected {sorted(expected)}"
            f" (missing {missing}, unknown {unknown})",
            where=str(path),
            hint="Save one array for each model input, by its name. A language model's cache may be"
            f" left out. The right classes may be added as {LABELS!r}.",
        )


def _layout(path: Path, spec: TensorSpec, found: _Array, leading: Collection[str]) -> SampleLayout:
    """Return how the samples of `spec` lie in an array.

    Raises:
        InputError: it has another type or shape.
    """
    kinds = (spec.dtype, *_IN_FILES.get(spec.dtype.name, ()))
    known = found.dtype in kinds
    layout = layout_in(spec, found.shape, leading) if known else None
    if layout is None:
        raise InputError(
            f"array {spec.name!r} is {found.dtype} {list(found.shape)},"
            f" expected {spec.dtype} {list(spec.shape)}",
            where=str(path),
            hint=_RESHAPE if known else _CONVERT.format(kinds[1 % len(kinds)]),
        )
    if layout.count == 0 and found.shape[layout.axis]:
        raise InputError(
            f"array {spec.name!r} holds {found.shape[layout.axis]} rows, expected {layout.rows} or"
            " more: the model takes as many at once",
            where=str(path),
            hint="Give more rows, or export the model with a dynamic batch axis.",
        )
    return layout


def _typed(array: Array, kind: np.dtype[Any]) -> Array:
    if array.dtype == kind:
        return array
    return array.view(kind) if array.dtype.kind == "V" else array.astype(kind)


def _check_finite(path: Path, feed: Feed) -> None:
    """Check that values are finite, or −∞, which masks are made of."""
    for name, array in feed.items():
        if is_float(array.dtype) and not (np.isfinite(array) | np.isneginf(array)).all():
            raise InputError(
                f"array {name!r} holds NaN or infinity",
                where=str(path),
                hint="Look at the preprocessing, or leave these samples out.",
            )

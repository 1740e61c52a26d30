"""What a caller holds in memory, as files of this process, which every step reads as any other.

They lie in a folder of their own among the temporary files, named by their content, so that the
same arrays are the same data to every step, and go with the process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from pathlib import Path
from shutil import rmtree
from tempfile import NamedTemporaryFile, TemporaryDirectory, mkdtemp
from typing import Any, Protocol, runtime_checkable
from zipfile import ZipFile

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from qgraph._graph.errors import EnvironmentFault, LimitError, UsageError
from qgraph._graph.io.external import external_tensors
from qgraph._graph.io.files import sha256_of
from qgraph._graph.io.models import write_model
from qgraph._graph.run.npz import ONLY
from qgraph._graph.tensors import Feed, pieces

AnyPath = str | Path
AnyModel = str | Path | onnx.ModelProto
_LARGEST_MESSAGE = (2 << 30) - 1
_DIGITS = 12
_DATA = rf"memory-[0-9a-f]{{{_DIGITS}}}"
"""What data in memory is called."""
_FORMAT: Any = np.lib.format
"""Which numpy leaves without types."""
_EXPECTED = "expected paths, an array, a dict of arrays, or an iterable of such dicts"


@runtime_checkable
class Unwritten(Protocol):
    """A model that can be written to a folder, as `qgraph.quantize` returns."""

    def save(self, folder: AnyPath) -> Path:
        """Write it and return its path."""
        ...


def path_of(value: Any, what: str) -> Path:
    """Return a path that was given.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str | Path):
        raise UsageError(f"found {what} of the type {type(value).__name__}, expected a path")
    return Path(value)


def model_file(model: AnyModel | Unwritten) -> Path:
    """Return the file of a model; of one in memory, one that holds the same.

    Raises:
        EnvironmentFault: there is no room for it in the folder for temporary files.
        LimitError: it does not fit into one protobuf message (2 GiB).
        UsageError: it is no model, or its weights lie in files that it does not say the folder of.
    """
    if isinstance(model, onnx.ModelProto):
        _require_whole(model)
        name = re.sub(r"\W+", "-", model.graph.name).strip("-")[:40] or "model"
        return _kept(lambda folder: _written(model, folder / f"{name}.onnx"))
    if isinstance(model, Unwritten):
        return _kept(model.save)
    if not isinstance(model, str | Path):
        raise UsageError(
            f"found a model of the type {type(model).__name__}, expected a path, an"
            " onnx.ModelProto or what qgraph.open returns"
        )
    return Path(model)


def data_files(data: Any, limit: int | None = None) -> tuple[Path, ...]:
    """Return the files of data; of arrays in memory, `.npz` files that hold the same.

    A dict holds arrays as an `.npz` file does; an array alone is the only input's. Of an iterable
    of either, at most `limit` are taken, each when its turn comes.

    Raises:
        EnvironmentFault: there is no room for it in the folder for temporary files.
        UsageError: it is no data, or an iterator that nothing is left of.
    """
    if isinstance(data, str | Path):
        return (Path(data),)
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        return (_archive(data),)
    if isinstance(data, bytes) or not isinstance(data, Iterable):
        raise UsageError(f"found data of the type {type(data).__name__}, {_EXPECTED}")
    found: list[Path] = []
    feeds = _apart(data, found)
    folder = _folder_of(islice(feeds, limit))
    if folder is None and not found and isinstance(data, Iterator):
        raise UsageError(
            "the iterator of samples is empty",
            hint="An iterator can be read only once: make a new one, or a list.",
        )
    return (*found, *([folder] if folder else []))


def as_given(text: str) -> str:
    """Return a message that names what was given, not the file that it lies in."""
    if not _home.cache_info().currsize:
        return text
    home = re.escape(str(_folder())) + "/"
    text = re.sub(rf"(?:{home})?{_DATA}/0*(\d+)\.npz", r"sample \1 of the given data", text)
    text = re.sub(rf"(?:{home})?{_DATA}(?:\.npz)?", "the given data", text)
    return re.sub(rf"{home}[^/]+/([\w-]+)\.onnx", r"the given model \1", text)


def _apart(data: Iterable[Any], paths: list[Path]) -> Iterator[Any]:
    """Yield the samples; what is a path goes to `paths`."""
    for item in data:
        if isinstance(item, str | Path):
            paths.append(Path(item))
        else:
            yield item


def _require_whole(model: onnx.ModelProto) -> None:
    try:
        size = model.ByteSize()
    except (EncodeError, ValueError):  # which protobuf raises depends on its version
        size = _LARGEST_MESSAGE
    if size >= _LARGEST_MESSAGE:
        raise LimitError(
            "the model in memory does not fit into one protobuf message (2 GiB)",
            hint="Save it with onnx.save(model, path, save_as_external_data=True), give its path.",
        )
    if any(True for _ in external_tensors(model)):
        raise UsageError(
            "the weights of the model in memory lie in files, and it does not say in which folder",
            hint="Give its path, or load it with onnx.load, weights and all.",
        )


def _written(model: onnx.ModelProto, path: Path) -> Path:
    write_model(model, path)
    return path


def _kept(write: Callable[[Path], Path]) -> Path:
    """Return what `write` wrote to a folder, in one that is named by its name and content."""
    with _new_folder() as made:
        path = write(made)
        return _settled(made, f"{path.stem}-{sha256_of(path)[:_DIGITS]}") / path.name


def _archive(data: Any) -> Path:
    feed = _arrays(data)
    with _room():
        path = _folder() / f"memory-{_digest([feed])}.npz"
        if not path.exists():
            _save(path, feed)
    return path


def _folder_of(feeds: Iterable[Any]) -> Path | None:
    """Return a folder with a file for each sample; None where there is none.

    Raises:
        UsageError: a sample is none, or the iterable fails.
    """
    rest = _guarded(feeds)
    begun = list(islice(rest, 1))
    if not begun:  # paths alone need no folder
        return None
    digest = hashlib.sha256()
    with _new_folder() as made:
        for index, given in enumerate(chain(begun, rest)):
            feed = _arrays(given)
            digest.update(_digest([feed]).encode())
            with _room():
                _save(made / f"{index:08}.npz", feed)
        return _settled(made, f"memory-{digest.hexdigest()[:_DIGITS]}")


def _guarded(feeds: Iterable[Any]) -> Iterator[Any]:
    """Yield what a caller's iterable gives; what it raises is not said to be of the disk."""
    try:
        yield from feeds
    except Exception as error:
        raise UsageError(
            f"the iterable of samples failed: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _new_folder() -> Iterator[Path]:
    """Give a folder to fill, and remove it unless it got a name to stay."""
    with _room():
        made = Path(mkdtemp(dir=_folder()))
    try:
        yield made
    finally:
        rmtree(made, ignore_errors=True)


def _settled(made: Path, name: str) -> Path:
    """Return the folder of that name, which holds what `made` does."""
    home = made.with_name(name)
    try:
        made.rename(home)
    except OSError:
        if not home.is_dir():  # else it was there already, or another thread was quicker
            raise
    return home


def _arrays(given: Any) -> Feed:
    named = given if isinstance(given, Mapping) else {ONLY: given}
    if not isinstance(given, Mapping) and not hasattr(given, "__array__"):
        raise UsageError(f"found a sample of the type {type(given).__name__}, {_EXPECTED}")
    return {str(name): _array(str(name), value) for name, value in named.items()}


def _array(name: str, value: Any) -> Any:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a device, of torch, say
        raise UsageError(f"{name!r} cannot be made an array: {error}") from error
    if found.dtype.kind not in "biufc" and found.dtype.type.__module__ != "ml_dtypes":
        raise UsageError(f"{name!r} is an array of {found.dtype}, expected numbers")
    return found


def _digest(feeds: Iterable[Feed]) -> str:
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            for part in pieces(array):
                digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_DIGITS]


def _save(path: Path, feed: Feed) -> None:
    """Write an archive whole: one that is cut short has another name."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file, ZipFile(file, "w") as archive:
        for name, array in feed.items():  # numpy.savez has arguments that an input may be called
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                _FORMAT.write_array(stream, np.asarray(array), allow_pickle=False)
    Path(file.name).rename(path)


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="qgraph-")


def _folder() -> Path:
    return Path(_home().name)


@contextmanager
def _room() -> Iterator[None]:
    """Say of a disk that is full that it is that."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write what is in memory to a temporary file: {error}",
            hint="Free some space there, or set TMPDIR to a folder that has it.",
        ) from error

"""All writing of files goes through here, so that output is whole or absent.

A file is written beside its target under a temporary name, flushed to the disk and renamed. A
folder is filled under a temporary name and renamed in one step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.io.leftovers import clear_leftovers, temporary_file, temporary_folder
from qgraph._graph.io.replacing import exchange, replace_entries

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of_open(file).hex()


def sha256_of_open(file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


def is_there(path: Path) -> bool:
    """Return whether something is at `path`; a path no file can have (too long) holds nothing."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Return whether a regular file is at `path`, which may be a name no file can have."""
    return is_there(path) and path.is_file()


def require_file(path: Path, what: str) -> Path:
    """Return `path` if it is a regular file.

    Raises:
        InputError: nothing is there, or it is a folder, a device, a pipe.
    """
    if not is_there(path):
        raise InputError(f"no such {what}", where=str(path), hint="Check the path.")
    if not path.is_file():
        if path.is_dir():
            hint = "Give a file in it."
            raise InputError(f"found a folder, expected: {what}", where=str(path), hint=hint)
        raise InputError(f"found no regular file, expected: {what}", where=str(path))
    return path


def require_writable_folder(folder: Path) -> Path:
    """Create `folder` if needed and return it.

    Raises:
        EnvironmentFault: it cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_fault(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise EnvironmentFault(
            "the output folder is not writable", where=str(folder), hint="Choose another with -o."
        )
    return folder


def require_replaceable(path: Path) -> Path:
    """Return `path` if a file may be written there: over nothing, or over a regular file.

    Raises:
        UsageError: it is a folder, a device, a pipe, a socket: a rename would put a file in its
            place, for every process of the machine.
        EnvironmentFault: it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise _write_fault(path, error) from error
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((name for is_a, name in kinds if is_a(mode)), "device")
        raise UsageError(
            f"this is a {kind}, expected a file to write",
            where=str(path),
            hint="Choose another with -o; --json prints the result on the standard output.",
        )
    return path


def write_named(folder: Path, fill: Callable[[Path], str]) -> Path:
    """Let `fill` write a temporary file in `folder` and return the name it shall have.

    For files named after their content. Returns the path of the finished file.

    Raises:
        UsageError: what has this name is no file.
        EnvironmentFault: no space, no permission, or the folder cannot be made.
    """
    require_writable_folder(folder)
    try:
        clear_leftovers(folder)
        with temporary_file(folder) as temporary:
            path = require_replaceable(folder / fill(temporary))
            _flush(temporary)
            _put(temporary, path)
    except OSError as error:
        raise _write_fault(folder, error) from error
    return path


def _put(temporary: Path, path: Path) -> None:
    """Move a finished file to its name; where that may not last, one that was not there goes."""
    is_new = not os.path.lexists(path)
    temporary.replace(path)
    try:
        _flush(path.parent)
    except OSError:
        if is_new:
            path.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""

    def fill(temporary: Path) -> str:
        temporary.write_bytes(data)
        return path.name

    write_named(path.parent, fill)


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of `source` to `target`, a piece at a time; never a link.

    For folders that are filled before they are published: `target` itself may be seen half done,
    and must be new, so that neither `source` nor another file of the folder is written over.

    Raises:
        UsageError: something is at `target` already.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        raise UsageError(f"two files are to be called {target.name!r}", where=str(source))
    with source.open("rb") as read, target.open("xb") as written:
        while piece := read.read(_CHUNK):
            written.write(piece)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def publishing(folder: Path, last: str, *, whole: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose entries move to `folder` once it is filled.

    A new folder appears in one rename. In an existing one, entries of the same names are replaced
    and others are left alone; `last` names the entry that makes the folder complete: it is removed
    first and put back last, so that a folder torn by a kill shows. With `whole`, the older folder
    goes, in one step, with all it holds. Where a call fails, what was there stands.

    Raises:
        EnvironmentFault: no space, or `folder` cannot be written.
        UsageError: an entry would replace what is no file.
    """
    try:
        folder = folder.resolve()  # `.` has no name to call the temporary after
        require_writable_folder(folder.parent)
        clear_leftovers(folder.parent)
        with temporary_folder(folder) as temporary:
            yield temporary
            for path in sorted(temporary.rglob("*")):
                _flush(path)
            _publish(temporary, folder, last, whole=whole)
    except OSError as error:
        raise _write_fault(folder, error) from error


def _publish(temporary: Path, folder: Path, last: str, *, whole: bool) -> None:
    if not folder.exists():
        temporary.rename(folder)
    elif whole:
        exchange(temporary, folder)
    else:
        _require_replaceable_entries(temporary, folder)
        replace_entries(temporary, folder, last)
    _flush(folder.parent)


def _require_replaceable_entries(source: Path, folder: Path) -> None:
    for entry in source.iterdir():
        if not entry.is_dir():
            require_replaceable(folder / entry.name)


def write_together(folder: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write files of these names in `folder`: all, or none where a call fails.

    Raises:
        UsageError: what has one of the names is no file.
        EnvironmentFault: no space, or the folder cannot be written; what was there stands.
    """
    require_writable_folder(folder)
    try:
        clear_leftovers(folder)
        with temporary_folder(folder / "files") as temporary:
            for name, content in contents:
                (temporary / name).write_bytes(content)
                _flush(temporary / name)
            _require_replaceable_entries(temporary, folder)
            replace_entries(temporary, folder)
            _flush(folder)
    except OSError as error:
        raise _write_fault(folder, error) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_fault(path: Path, error: OSError) -> EnvironmentFault:
    hints = {
        errno.ENOSPC: "Free some space or choose another output.",
        errno.EFBIG: "Raise the file size limit or choose another output.",
        errno.EACCES: "Choose an output you may write to.",
        errno.EROFS: "The file system is read-only; choose another output.",
    }
    hint = hints.get(error.errno or 0, "Check the output path.") + " What was there before stands."
    return EnvironmentFault(f"cannot write: {error.strerror or error}", where=str(path), hint=hint)

"""Data files of a model, opened so that what was checked is what is read.

A file is looked up below the model's folder, part by part, from descriptors and without following a
link; what it is stands in its tensors (device, inode, size, time of change) and is compared each
time weights are mapped later. No descriptor is kept: a file that is replaced during a run is
noticed, and the run ends, instead of going on with what the folder does not hold any more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from qgraph._graph.errors import InputError
from qgraph._graph.io.inside import Inside, find_inside

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_HINT = "Copy the data file beside the model."
_CHANGED = "another file is there now, or it was changed"


@contextmanager
def opened_inside(folder: Path, named: str, what: str) -> Iterator[tuple[Path, BufferedReader]]:
    """Yield the regular file that `named` is, relative to `folder`, and where it really lies: of a
    link that stays inside, what it leads to. `what`: begins the message.

    Raises:
        InputError: it is not there, lies elsewhere, or is no regular file.
    """
    where = str(folder / named)
    found = find_inside(folder, named, unprintable=True)
    if found is None:
        raise _elsewhere(what, where)
    try:
        descriptor = _walk(found)
    except FileNotFoundError as error:
        raise InputError(f"{what} is missing", where=where, hint=_HINT) from error
    except OSError as error:
        raise _elsewhere(what, where) from error
    with os.fdopen(descriptor, "rb") as file:
        yield found.path, file


def _elsewhere(what: str, where: str) -> InputError:
    message = f"{what} is a link out of the folder or no regular file"
    return InputError(message, where=where, hint=_HINT)


def _walk(found: Inside) -> int:
    """Return a descriptor of a regular file, no part of whose path below its home is a link."""
    at = os.open(found.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = found.path.relative_to(found.home).parts
    for index, part in enumerate(parts, 1):
        try:
            kind = 0 if index == len(parts) else os.O_DIRECTORY
            below = os.open(part, _READ | kind, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return _regular(at)


def _regular(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file")
    return descriptor


def identity_of(file: BufferedReader) -> str:
    """Return what tells an open file from another, and from itself once it was changed."""
    found = os.fstat(file.fileno())
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


@contextmanager
def reopened(path: Path, identity: str) -> Iterator[BufferedReader]:
    """Yield the file at `path`, which is no link, if it is the one that was checked before; without
    an `identity`, whatever file is there.

    Raises:
        OSError: it is another, was changed, or cannot be opened.
    """
    with os.fdopen(_regular(os.open(path, _READ)), "rb") as file:
        if identity and identity_of(file) != identity:
            raise OSError(errno.ESTALE, _CHANGED)
        yield file

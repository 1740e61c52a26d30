"""One run at a time per folder, by a lock that frees itself when the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.files import require_writable_folder

_NAME = ".qgraph.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if needed.

    Raises:
        EnvironmentFault: another process holds it, or the lock file is a link.
    """
    path = require_writable_folder(folder) / _NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise _fault(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EnvironmentFault("this is no file, expected a lock", where=str(path), hint=_HINT)
        _acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)


_HINT = "Remove it, or choose another folder with -o."


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"cannot lock: {error.strerror}", where=str(path), hint=_HINT)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
        raise EnvironmentFault(
            f"another run (process {holder}) is working in this folder",
            where=str(path.parent),
            hint="Wait for it, stop it, or choose another folder with -o.",
        ) from error
    except OSError as error:  # a file system without locks
        raise _fault(path, error) from error
    with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)

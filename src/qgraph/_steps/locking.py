"""One run at a time per folder, by a lock that frees itself when the process ends."""

from __future__ import annotations

import fcntl
import os
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise EnvironmentFault(f"cannot lock: {error.strerror}", where=str(path)) from error
    try:
        _acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)


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
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)

"""Temporary files and folders that their writers hold, and those that killed writers left.

A writer holds a lock on what it fills, and the kernel frees it when the process ends, however it
ends. So a leftover is what nobody holds. The number of the process that made it would not tell: the
kernel gives numbers again, and a dead process that nobody waited for keeps its own.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK = ".qgraph-tmp"


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """Yield an empty file in `folder`, held until it is renamed or, on leaving, removed.

    Raises:
        OSError: it cannot be made.
    """

    def make() -> Path:
        path = folder / f"{_MARK}-{secrets.token_hex(6)}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        return path

    with _held(make) as path:
        yield path


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield an empty folder beside another, held until it is renamed or, on leaving, removed.

    Raises:
        OSError: it cannot be made.
    """

    def make() -> Path:
        path = beside.with_name(f".{beside.name}{_MARK}-{secrets.token_hex(6)}")
        path.mkdir()
        return path

    with _held(make) as path:
        yield path


@contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    """Yield what `make` makes once it is held; made again where it was cleared before that."""
    while True:
        path = make()
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            if _hold(path, descriptor):
                break
            os.close(descriptor)
    try:
        yield path
    finally:
        os.close(descriptor)
        _remove(path)


def _hold(path: Path, descriptor: int) -> bool:
    """Return whether the lock is ours, and on what still lies at `path`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody else takes one, and nothing is cleared
        return True
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


def clear_leftovers(folder: Path) -> None:
    """Remove what writers of `folder` left that were killed."""
    for path in folder.glob(f".*{_MARK.lstrip('.')}-*"):
        # gone meanwhile, someone else's, or held: not ours to remove
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

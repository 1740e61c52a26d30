"""Several files, or a folder, put in place of older ones: all, or none where a call fails."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_REPLACED = ".replaced"


def exchange(first: Path, second: Path) -> None:
    """Let two folders change places, in one step where the system has one (Linux).

    Raises:
        OSError: they stay where they were.
    """
    if _exchanged(first, second):
        return
    aside = first.with_name(f"{first.name}.aside")
    second.rename(aside)
    try:
        first.rename(second)
    except OSError:
        aside.rename(second)
        raise
    aside.rename(first)


def _exchanged(first: Path, second: Path) -> bool:
    """Return whether the kernel did it; False where it, or the file system, cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if sys.platform != "linux" or call is None:
        return False
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    if call(*paths, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(second))


def replace_entries(source: Path, folder: Path, last: str | None = None) -> None:
    """Move every entry of `source` into `folder`, over entries of the same names.

    Where a call fails, what was there is put back. `last` is taken away first and comes last, so
    that a folder shows if the process was killed on the way. What was replaced is left in `source`.

    Raises:
        OSError: a call failed; `folder` is as it was.
    """
    names = sorted((path.name for path in source.iterdir()), key=lambda name: (name == last, name))
    kept = source / _REPLACED
    kept.mkdir()
    undo: list[Callable[[], object]] = []
    try:
        for name in [last] if last is not None else []:
            _keep(folder / name, kept, undo, away=True)
        for name in names:
            _keep(folder / name, kept, undo, away=(folder / name).is_dir())
            (source / name).replace(folder / name)
            undo.append(_mover(folder / name, source / name))
    except BaseException:
        for step in reversed(undo):
            with suppress(OSError):
                step()
        raise


def _keep(path: Path, kept: Path, undo: list[Callable[[], object]], *, away: bool) -> None:
    """Keep what is at `path`; a file stays in its place, too, until another takes it."""
    target = kept / path.name
    if not os.path.lexists(path) or os.path.lexists(target):
        return
    if not away and not path.is_symlink():
        with suppress(OSError):  # a file system without hard links
            os.link(path, target)
    if not os.path.lexists(target):
        path.rename(target)
    undo.append(_mover(target, path))


def _mover(source: Path, target: Path) -> Callable[[], object]:
    return lambda: source.replace(target)

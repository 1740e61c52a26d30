"""Paths that a file names, proved to lie in that file's folder; outputs, proved to be no inputs.

A manifest, a list of samples or a record of a run comes from elsewhere: what it names is looked up
once, and the path that was proved is the one that is used, to read from and to write to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from qgraph._graph.errors import UsageError


@dataclass(frozen=True, slots=True)
class Inside:
    """`path`: where it really lies, to be read; `name`: its place below the folder, `a/b`, to be
    written as; `home`: what `path` lies below, the folder itself or the blobs of its hub's cache.
    """

    path: Path
    name: str
    home: Path


def find_inside(folder: Path, named: str, *, unprintable: bool = False) -> Inside | None:
    """Return what `named`, relative to `folder`, is; None where it lies elsewhere.

    1. A name is a plain one: no `..`, not absolute, no control character, for any system. With
       `unprintable` these may be there, in names that are read and never written.
    2. What it leads to, links followed, lies in the folder; in a model hub's cache, where every
       file is a link, in the blobs of the same repository.
    """
    name = _plain(named)
    if name is None or not (unprintable or name.isprintable()):
        return None
    try:
        path, root = (folder / name).resolve(), folder.resolve()
        circle = any(part.is_symlink() for part in (path, *path.parents))  # from Python 3.13 on
    except (OSError, RuntimeError):  # a name no file can have; a circle, up to Python 3.12
        return None
    if circle:
        return None
    homes = [root, *blobs_of(root)]
    home = next((item for item in homes if path.is_relative_to(item)), None)
    return Inside(path, name, home) if home is not None else None


def _plain(named: str) -> str | None:
    """Return a relative name in its shortest spelling, None where it is none."""
    pure = PurePosixPath(named)
    leaves = ".." in pure.parts or pure.is_absolute() or PureWindowsPath(named).is_absolute()
    if leaves or not pure.parts or "\0" in named:
        return None
    return pure.as_posix()


def blobs_of(folder: Path) -> list[Path]:
    """Return where the files of `folder` may really lie if it is a snapshot in a model hub's cache:
    `models--x--y/snapshots/REVISION/…` has its files in `models--x--y/blobs`, and nowhere else.
    """
    for parent in folder.parents:
        if parent.name == "snapshots":
            blobs = parent.parent / "blobs"
            return [blobs] if blobs.is_dir() and not blobs.is_symlink() else []
    return []


_Identity = tuple[int, int] | Path


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output is an input, or another output.

    1. What is there is known by device and inode: through links, of both kinds, too.
    2. What is not there yet is known by its path, links in it followed.

    Raises:
        UsageError: one is.
    """
    taken = {_identity(path): "one of its inputs" for path in inputs}
    for path in outputs:
        place = _identity(path)
        if place in taken:
            raise UsageError(
                f"this would write over {taken[place]}",
                where=str(path),
                hint="Choose another with -o.",
            )
        taken[place] = "another file it writes"


def _identity(path: Path) -> _Identity:
    try:
        found = path.stat()
    except (OSError, ValueError):
        # `realpath`, not `resolve`, which refuses a circle of links up to Python 3.12
        return Path(os.path.realpath(path))
    return found.st_dev, found.st_ino

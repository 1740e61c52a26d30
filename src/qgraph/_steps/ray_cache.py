"""Models that a node was sent: folders named by what is in them, for all processes of the node.

A folder is filled under a lock, its files held against their SHA-256, and appears in one rename. A
process that uses one holds it; of the others, those used longest ago go when there are too many or
the disk has no room.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qgraph._graph.errors import EnvironmentFault
from qgraph._graph.io.files import publishing

VARIABLE = "QGRAPH_RAY_CACHE"
"""The folder, where the one for temporary files has no room."""
_MOST = 4
"""Models that are kept, beside those in use."""
_KEY = re.compile(r"[0-9a-f]{64}")
"""What folders of models are called. Nothing else in the cache is ever removed."""

SentFile = tuple[str, int, str, tuple[Any, ...]]
"""Name below the folder, bytes, SHA-256, and references to the chunks."""


_held: list[int] = []
"""The folder that this process uses, open and locked."""


def received(ray: Any, key: str, files: Sequence[SentFile]) -> Path:
    """Return the folder of these files, fetched if no process of this node has; it stays until this
    process ends or receives another.

    Raises:
        EnvironmentFault: there is no room, or a file is not what was sent.
    """
    try:
        return _received(ray, _cache(), key, files)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot keep what was sent: {error.strerror}",
            where=str(error.filename or ""),
            hint=f"Name another folder by {VARIABLE} where nodes are started.",
        ) from error


def _received(ray: Any, cache: Path, key: str, files: Sequence[SentFile]) -> Path:
    folder = cache / key
    with _alone(cache):
        if not _is_whole(folder, files):
            _make_room(cache, sum(size for _, size, _, _ in files))
            with publishing(folder, files[0][0], whole=True) as temporary:
                for file in files:
                    _fetch(ray, temporary, file)
        os.utime(folder)
        while _held:
            os.close(_held.pop())
        _held.append(os.open(folder, os.O_RDONLY))
        fcntl.flock(_held[0], fcntl.LOCK_SH)
    return folder


def _cache() -> Path:
    """Return the folder of all, which is this user's alone."""
    parent = os.environ.get(VARIABLE) or tempfile.gettempdir()
    cache = Path(parent, f"qgraph-ray-{os.getuid()}")
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != os.getuid():
        raise EnvironmentFault(
            "the folder for models that are sent is another user's",
            where=str(cache),
            hint=f"Name another by {VARIABLE} where nodes are started.",
        )
    return cache


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Wait until no other process of this node fetches or clears anything."""
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_whole(folder: Path, files: Sequence[SentFile]) -> bool:
    """Return whether all files are there; who opens the model hashes it."""
    found = [(folder / name, size) for name, size, _, _ in files]
    return all(path.is_file() and path.stat().st_size == size for path, size in found)


def _make_room(cache: Path, needed: int) -> None:
    """Remove models that nobody uses, those used longest ago first, as far as must be."""
    there = sorted(filter(_is_model, cache.iterdir()), key=_used)
    for path in there:
        few = sum(map(_is_model, cache.iterdir())) < _MOST
        if few and shutil.disk_usage(cache).free > needed:
            return
        with suppress(OSError):  # in use
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _is_model(path: Path) -> bool:
    return bool(_KEY.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def _used(path: Path) -> float:
    return path.stat().st_mtime


def _fetch(ray: Any, folder: Path, file: SentFile) -> None:
    """Write a file of `folder`, chunk by chunk."""
    name, _, expected, chunks = file
    path, digest = folder / name, hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as written:
        for chunk in chunks:
            content = ray.get(chunk)
            digest.update(content)
            written.write(content)
    if digest.hexdigest() != expected:
        raise EnvironmentFault(f"{name} did not arrive as it was sent", where=str(path))

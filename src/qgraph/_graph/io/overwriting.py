"""Outputs that are no inputs, by what lies there and not by how a path is spelled."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qgraph._graph.errors import UsageError

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

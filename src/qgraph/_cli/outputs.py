"""Where a command may write: looked at before the work begins, not after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qgraph._graph.errors import EnvironmentFault, UsageError


def require_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that every output can be written, is named once, and is not an input. Makes nothing.

    Raises:
        UsageError: two outputs share a path, or an output is an input or a folder.
        EnvironmentFault: the nearest folder that exists cannot be written.
    """
    taken = {path.resolve(): "one of its inputs" for path in inputs}
    for path in outputs:
        where, place = str(path), path.resolve()
        if place in taken:
            raise UsageError(
                f"this would write over {taken[place]}", where=where, hint="Choose another with -o."
            )
        taken[place] = "another file it writes"
        if path.is_dir():
            raise UsageError("this is a folder, expected a file to write", where=where)
        _require_writable(path)


def _require_writable(path: Path) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise EnvironmentFault(
            f"cannot write: {folder} is not a folder one can write to",
            where=str(path),
            hint="Choose another output with -o.",
        )

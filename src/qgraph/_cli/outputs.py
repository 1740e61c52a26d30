"""Where a command may write: looked at before the work begins, not after it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from qgraph._exporters.belongings import read_with
from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.io.files import is_there, require_replaceable
from qgraph._graph.io.inside import require_apart

_LONGEST_NAME = 200
"""Bytes. File systems take 255; a journal's and its folder's names are longer than the output's."""


def require_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that every output can be written, is named once, and is not an input, nor a file that
    is read with one. Makes nothing.

    Raises:
        UsageError: two outputs share a path, or an output is an input, a folder, a device, a pipe.
        EnvironmentFault: the nearest folder that exists cannot be written.
    """
    wanted = list(outputs)
    require_apart(wanted, read_with(inputs))
    for path in wanted:
        _require_file_name(path)
        require_replaceable(path)
        _require_writable(path)


def _require_file_name(path: Path) -> None:
    if path == Path("-"):
        raise UsageError(
            "-o - names no file, expected a path to write to",
            hint="--json prints the result; the file is written besides.",
        )
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise UsageError(
            f"the name has more than {_LONGEST_NAME} bytes, expected a shorter one",
            where=f"{str(path)[:80]}…",
            hint="Files written beside it have longer names still. Choose another with -o.",
        )


def _require_writable(path: Path) -> None:
    folder = next(parent for parent in path.absolute().parents if is_there(parent))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise EnvironmentFault(
            f"cannot write: {folder} is {'not writable' if folder.is_dir() else 'not a folder'}",
            where=str(path),
            hint="Choose another output with -o.",
        )

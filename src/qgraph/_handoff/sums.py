"""`SHA256SUMS`: every file of a bundle, and no other, as `sha256sum --check` reads it."""

from __future__ import annotations

import re
from pathlib import Path

from qgraph._graph.errors import InputError
from qgraph._graph.io.files import require_file, sha256_of, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_sums(folder: Path) -> None:
    """Write the sums of all files under `folder`."""
    lines = [f"{sha256_of(path)}  {name}" for name, path in sorted(files_of(folder).items())]
    write_text(folder / SUMS, "\n".join(lines) + "\n")


def files_of(folder: Path) -> dict[str, Path]:
    """Return relative path → path of everything under `folder` that is no folder, sums aside."""
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path for name, path in named.items() if name != SUMS}


def read_sums(folder: Path) -> dict[str, str]:
    """Return relative path → SHA-256.

    Raises:
        InputError: there are none, or a line is not one of them.
    """
    path = require_file(folder / SUMS, "checksums of a bundle")
    found: dict[str, str] = {}
    text = path.read_bytes().decode("utf-8", "replace")  # what is no text is no checksum either
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise InputError(f"line {number} is no checksum of a file", where=str(path))
        found[match[2]] = match[1]
    return found


def problems_of(folder: Path) -> list[str]:
    """Return what differs from the sums: altered, missing and extra files, and links."""
    wanted, there = read_sums(folder), files_of(folder)
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - there.keys())]
    problems += [f"{name} is extra" for name in sorted(there.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & there.keys()):
        if there[name].is_symlink() or not there[name].is_file():
            problems.append(f"{name} is no regular file")
        elif sha256_of(there[name]) != wanted[name]:
            problems.append(f"{name} was altered")
    return problems

"""Whether what lies on the disk is whole: a bundle, a run folder, an exported folder, one file.

Of a bundle, `SHA256SUMS` names every file and no other, as `sha256sum --check` reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgraph._evaluation.results import Evaluation
from qgraph._exporters.belongings import companions
from qgraph._exporters.manifest import MANIFEST, Manifest
from qgraph._graph.errors import InputError, QGraphError, UsageError
from qgraph._graph.io.documents import Document, read_document, read_json
from qgraph._graph.io.files import is_there, require_file, sha256_of, write_text
from qgraph._graph.io.models import identify, read_model
from qgraph._graph.rules.report import Lint
from qgraph._handoff.document import Handoff
from qgraph._handoff.engine_layers import EngineLayers
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._report.engine_times import EngineTimes
from qgraph._sensitivity.report import Sensitivity

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


DOCUMENTS: dict[str, type[Document]] = {
    kind.SCHEMA: kind
    for kind in (
        *(Handoff, Evaluation, Manifest, Profiles, Ranges, Sensitivity),
        *(Lint, EngineLayers, EngineTimes),
    )
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of `verify`.

    `kind`: what was found. `files`: the number of files checked. `problems`: empty if it is
    complete.
    """

    kind: str
    files: int
    problems: tuple[str, ...]


def verify(path: Path) -> Verdict:
    """Return whether `path`, an output of qgraph, is whole.

    Raises:
        InputError: nothing is there, or nothing that qgraph writes.
    """
    if not is_there(path):
        raise InputError("nothing is there", where=str(path), hint="Check the path.")
    if path.is_dir():
        return _folder(path)
    return _file(path)


def _folder(folder: Path) -> Verdict:
    if (folder / SUMS).exists() or (folder / "handoff.json").exists():
        return _bundle(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and _is_ours(path))
    if not files:
        raise InputError(
            "found no file that qgraph writes, expected a bundle, a run or an exported folder",
            where=str(folder),
        )
    problems = [f"{file.name}: {text}" for file in files for text in _problems(file)]
    if (folder / MANIFEST).is_file() and not problems:
        problems += _missing_companions(folder)
    return Verdict("a run or exported folder", len(files), tuple(problems))


def _bundle(folder: Path) -> Verdict:
    problems = problems_of(folder)
    if not problems:
        handoff = read_document(folder / "handoff.json", Handoff)
        found = identify(folder / "model.onnx").sha256
        wanted = handoff.bundled_sha256
        if found != wanted:
            problems.append(f"model.onnx is {found[:16]}…, handoff.json is about {wanted[:16]}…")
    count = sum(path.is_file() for path in folder.rglob("*"))
    return Verdict("a bundle", count, tuple(problems))


def _file(path: Path) -> Verdict:
    if not _is_ours(path):
        raise InputError(
            "not a file that qgraph writes: expected a JSON with a schema of its own, or a model",
            where=str(path),
        )
    return Verdict("a file", 1, tuple(_problems(path)))


def _is_ours(path: Path) -> bool:
    return path.suffix == ".onnx" or (path.suffix == ".json" and _schema(path) is not None)


def _schema(path: Path) -> str | None:
    """Return the schema a JSON file names, if it is one of qgraph's."""
    try:
        content: Any = read_json(path)
    except QGraphError:
        return None
    found = content.get("schema") if isinstance(content, dict) else None
    return found if isinstance(found, str) and found.startswith("qgraph.") else None


def _problems(path: Path) -> list[str]:
    try:
        if path.suffix == ".onnx":
            read_model(path, weights=False)
        else:
            kind = DOCUMENTS.get(_schema(path) or "")
            if kind is not None:
                read_document(path, kind)
    except QGraphError as error:
        return [error.message]
    return []


def _missing_companions(folder: Path) -> list[str]:
    """Return what an exported folder's manifest names and does not hold."""
    manifest = read_document(folder / MANIFEST, Manifest)
    named = [manifest.embed, manifest.tokenizer, manifest.vision, manifest.data]
    if manifest.vision_encoder is not None:
        named.append(manifest.vision_encoder.path)
    try:
        companions(folder / "model.onnx")
    except UsageError as error:
        return [error.message]
    return [f"{name} is missing" for name in named if name and not (folder / name).exists()]

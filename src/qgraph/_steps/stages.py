"""Stages of a run folder: what each was made from, what it wrote, whether that still holds.

The record is `run.json`. A stage whose fingerprint is the same and whose files are untouched is not
repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import Document, Part, read_document, write_document
from qgraph._graph.io.files import sha256_of
from qgraph._graph.io.inside import find_inside
from qgraph._graph.version import VERSION, packages
from qgraph._sensitivity.scoring.fingerprint import digest_of

RECORD = "run.json"


class StageRecord(Part):
    """`outputs`: file → SHA-256, paths relative to the run folder. `seconds`: what the stage took
    in the run that finished it.
    """

    name: str
    fingerprint: str
    seconds: float | None = None
    outputs: dict[str, str]


class RunRecord(Document):
    """What has been done in a run folder."""

    SCHEMA: ClassVar[str] = "qgraph.run/1"

    stages: tuple[StageRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """`inputs`: everything the result depends on; `work` writes and returns the files. `goes_on`:
    whether what is there can be made better, though nothing changed.
    """

    name: str
    inputs: Callable[[], Any]
    work: Callable[[], Iterable[Path]]
    goes_on: Callable[[], bool] = lambda: False


def ensure(stage: Stage, folder: Path) -> bool:
    """Do `stage` unless its record holds; return whether it was done."""
    record = _read_record(folder)
    fingerprint = digest_of([stage.name, VERSION, packages(), stage.inputs()])
    done = {item.name: item for item in record.stages}
    holds = stage.name in done and _holds(done[stage.name], fingerprint, folder)
    if holds and not stage.goes_on():
        return False
    begun = time.perf_counter()
    outputs = {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(stage.work())
    }
    if stage.name in done:
        _remove(folder, done[stage.name].outputs.keys() - outputs.keys())
    seconds = time.perf_counter() - begun
    done[stage.name] = StageRecord(
        name=stage.name, fingerprint=fingerprint, seconds=seconds, outputs=outputs
    )
    write_document(folder / RECORD, RunRecord(schema=RunRecord.SCHEMA, stages=tuple(done.values())))
    return True


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove what a stage wrote under other options; a name that leads elsewhere is left alone."""
    for name in names:
        path = _output(folder, name)
        if path is not None and path == folder.resolve() / name:
            path.unlink(missing_ok=True)


def _output(folder: Path, name: str) -> Path | None:
    """Return a file that a record names, None where it is not there or lies elsewhere."""
    found = find_inside(folder, name)
    return found.path if found is not None and found.path.is_file() else None


def _is_whole(folder: Path, name: str, digest: str) -> bool:
    path = _output(folder, name)
    return path is not None and sha256_of(path) == digest


def _holds(record: StageRecord, fingerprint: str, folder: Path) -> bool:
    return record.fingerprint == fingerprint and all(
        _is_whole(folder, name, digest) for name, digest in record.outputs.items()
    )


def changed_outputs(folder: Path) -> list[str]:
    """Return what differs in a run folder from what its stages wrote.

    Raises:
        UsageError: the record is damaged.
    """
    return [
        f"{name} is missing" if _output(folder, name) is None else f"{name} was altered"
        for stage in _read_record(folder).stages
        for name, digest in stage.outputs.items()
        if not _is_whole(folder, name, digest)
    ]


def _read_record(folder: Path) -> RunRecord:
    path = folder / RECORD
    if not path.exists():
        return RunRecord(schema=RunRecord.SCHEMA)
    try:
        return read_document(path, RunRecord)
    except UsageError as error:
        error.hint = "Start over with --fresh."
        raise


def hashes_of(paths: Iterable[Path]) -> list[list[str]]:
    """Return [name, SHA-256] of every file in `paths`, folders included with all they hold."""
    found: list[list[str]] = []
    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", where=str(path), hint="Check the recipe.")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found += [[str(file.relative_to(path.parent)), sha256_of(file)] for file in files]
    return found

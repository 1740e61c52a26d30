"""What is read with a file that a user names: data files of a model, samples of a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from qgraph._exporters.data_files import files_named_in
from qgraph._exporters.images import SUFFIXES
from qgraph._exporters.manifest import companions
from qgraph._graph.errors import QGraphError
from qgraph._graph.io.models import data_files

_SAMPLES = {*SUFFIXES, ".npz", ".json", ".jsonl", ".txt"}
_OWN_NAMES = ("sensitivity", "ranges", "profiles", "evaluation", "comparison")


def read_with(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths that a user gave, and every file that is read with them.

    What cannot be read is left for whoever reads it to complain about.
    """
    for path in paths:
        yield path
        with suppress(QGraphError, OSError):
            yield from _belonging(path)


def _belonging(path: Path) -> Iterator[Path]:
    if path.is_dir():
        # what commands write by default may be written anew into a folder that holds samples, too
        yield from (file for file in path.rglob("*") if _is_sample(file))
    elif path.suffix in (".json", ".jsonl"):
        yield from files_named_in(path)
    elif path.suffix == ".onnx":
        yield from data_files(path)
        yield from companions(path)


def _is_sample(path: Path) -> bool:
    return path.suffix.lower() in _SAMPLES and not path.stem.startswith(_OWN_NAMES)

"""Ranges that an earlier run calibrated, kept in the folder of its journal.

A run with little time must not spend it on calibrating again what it calibrated before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from qgraph._graph.errors import QGraphError
from qgraph._graph.io.documents import Document, read_document, write_document
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.scoring.fingerprint import digest_of
from qgraph._sensitivity.scoring.journal import folder_of


class KeptRanges(Document):
    """`asked`: SHA-256 of what was calibrated, how, and on which data."""

    SCHEMA: ClassVar[str] = "qgraph.kept-ranges/1"

    asked: str
    ranges: Ranges


def find_ranges(journal: Path, asked: Mapping[str, Any]) -> Ranges | None:
    """Return the ranges kept beside `journal` if they answer the same question.

    What cannot be read is as good as none: it is made again.
    """
    file = _file(journal)
    if not file.is_file():
        return None
    try:
        found = read_document(file, KeptRanges)
    except QGraphError:
        return None
    return found.ranges if found.asked == digest_of(dict(asked)) else None


def keep_ranges(journal: Path, asked: Mapping[str, Any], ranges: Ranges) -> None:
    """Keep `ranges` beside `journal`, for the run that goes on with it."""
    kept = KeptRanges(schema=KeptRanges.SCHEMA, asked=digest_of(dict(asked)), ranges=ranges)
    write_document(_file(journal), kept)


def _file(journal: Path) -> Path:
    return folder_of(journal) / "ranges.json"

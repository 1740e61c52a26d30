"""What functions of the API take: a path, or what the file there holds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from qgraph._graph.io.documents import Document, read_document

AnyPath = str | Path
D = TypeVar("D", bound=Document)


def document(value: D | AnyPath, kind: type[D]) -> D:
    """Return a document, read if a path was given."""
    return read_document(Path(value), kind) if isinstance(value, str | Path) else value

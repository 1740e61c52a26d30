"""What functions of the API take: a path, or what the file there holds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from qgraph._evaluation.changes import Changes
from qgraph._evaluation.results import Evaluation
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, read_document, read_json
from qgraph._graph.rules.report import Lint
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.ranking.comparison import Comparison
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.given import AnyPath, path_of

D = TypeVar("D", bound=Document)


def load(path: AnyPath) -> Document:
    """Return the document in a file of qgraph's: a report, profiles, an evaluation or another.

    Raises:
        InputError: no such file.
        UsageError: not JSON, no schema of qgraph's, or a value that does not belong.
    """
    kinds: tuple[type[Document], ...] = (
        *(Sensitivity, Ranges, Profiles, Evaluation, Comparison, Changes, Lint),
    )
    file = path_of(path, "a document")
    content = read_json(file)
    found = content.get("schema") if isinstance(content, dict) else None
    for kind in kinds:
        if found == kind.SCHEMA:
            return read_document(file, kind)
    raise UsageError(
        f"found schema {found!r}, expected one of {', '.join(kind.SCHEMA for kind in kinds)}",
        where=str(file),
    )


def document(value: D | AnyPath, kind: type[D]) -> D:
    """Return a document, read if a path was given.

    Raises:
        InputError: no such file.
        UsageError: it is another kind's, or none.
    """
    if isinstance(value, str | Path):
        return read_document(Path(value), kind)
    if not isinstance(value, kind):
        raise UsageError(
            f"found a {type(value).__name__}, expected a {kind.__name__} or the path of its file"
        )
    return value


def required(runtime: Runtime | None) -> Runtime:
    """Return where work runs: as given, or here with what the machine has to spare.

    Raises:
        UsageError: it is no runtime.
    """
    if runtime is not None and not isinstance(runtime, Runtime):
        raise UsageError(
            f"found a runtime of the type {type(runtime).__name__}, expected a qgraph.Runtime",
            hint='For example qgraph.Runtime(provider="cuda").',
        )
    return runtime or Runtime()

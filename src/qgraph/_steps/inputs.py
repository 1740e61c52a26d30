"""What functions of the API take: a path or what the file there holds, and where work runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from qgraph._evaluation.results import Evaluation
from qgraph._exporters.belongings import read_with
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, read_document, shown_by
from qgraph._graph.io.inside import require_apart
from qgraph._graph.run.runtime import Runtime
from qgraph._report.notebook import evaluation_html, sensitivity_html
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.given import AnyPath

D = TypeVar("D", bound=Document)
shown_by(Evaluation, evaluation_html)
shown_by(Sensitivity, sensitivity_html)


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


def require_no_input(journal: AnyPath | None, given: Iterable[object]) -> None:
    """Check that a journal is no file that is read: `fresh` removes what lies there.

    Raises:
        UsageError: it is one of the paths among `given`, or read with one.
    """
    if journal is not None:
        read = [Path(each) for each in given if isinstance(each, str | Path)]
        require_apart([Path(journal)], read_with(read))


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

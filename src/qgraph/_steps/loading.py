"""`qgraph.load`: any document of qgraph's, by what it says it is."""

from __future__ import annotations

from qgraph._evaluation.changes import Changes
from qgraph._evaluation.results import Evaluation
from qgraph._exporters.manifest import Manifest
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, read_document, read_json
from qgraph._graph.rules.report import Lint
from qgraph._handoff.document import Handoff
from qgraph._handoff.engine_layers import EngineLayers
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._report.engine_times import EngineTimes
from qgraph._sensitivity.ranking.comparison import Comparison
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.given import AnyPath, path_of
from qgraph._steps.quantization import Quantization
from qgraph._steps.stages import RunRecord

KINDS: tuple[type[Document], ...] = (
    *(Sensitivity, Ranges, Profiles, Evaluation, Comparison, Changes, Lint, Quantization),
    *(Handoff, EngineLayers, EngineTimes, RunRecord, Manifest),
)


def load(path: AnyPath) -> Document:
    """Return the document in a file of qgraph: a report, profiles, an evaluation or another.

    Raises:
        InputError: no such file.
        UsageError: not JSON, no schema of qgraph's, or a value that does not belong.
    """
    file = path_of(path, "a document")
    content = read_json(file)
    found = content.get("schema") if isinstance(content, dict) else None
    for kind in KINDS:
        if found == kind.SCHEMA:
            return read_document(file, kind)
    raise UsageError(
        f"found schema {found!r}, expected one of {', '.join(kind.SCHEMA for kind in KINDS)}",
        where=str(file),
    )

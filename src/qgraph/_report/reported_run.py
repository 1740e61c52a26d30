"""What a report is made from: the documents of a run, its rankings and its engines' times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.run_folder import RunFolder
from qgraph._graph.io.documents import read_document, read_json
from qgraph._graph.io.models import ModelId
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import require_same_model
from qgraph._report.engine_times import EngineTimes, read_engine_times
from qgraph._report.graph_around import find_graph
from qgraph._sensitivity.ranking.agreement import compare_rankings
from qgraph._sensitivity.ranking.comparison import Comparison, Pair
from qgraph._sensitivity.ranking.files import Source, read_rankings
from qgraph._sensitivity.report import Sensitivity


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """`pairs`: rankings of other engines or tools against each other. `engines`: what was measured
    with TensorRT. `project`: what the run is called: its folder, which `qgraph run` names after the
    recipe. `graph`: the float model without weights, where it was found.
    """

    evaluation: Evaluation
    report: Sensitivity
    profiles: Profiles
    pairs: tuple[Pair, ...]
    engines: tuple[EngineTimes, ...] = ()
    project: str = "qgraph"
    graph: onnx.ModelProto | None = None


def read_run(folder: Path, *, graph: bool = False) -> ReportedRun:
    """Return the files of a run; with `graph`, the float model's too where it lies in the folder or
    in the one above.

    Rankings are those of `sensitivity-LABEL.json` files beside `sensitivity.json`, each against it,
    and of every `comparison*.json`.

    Raises:
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model.
    """
    run = RunFolder(folder)
    run.require([Sensitivity, Profiles, Evaluation])
    evaluation = run.need(Evaluation)
    model = evaluation.model
    report, profiles = run.need(Sensitivity, model), run.need(Profiles, model)
    profiles = profiles.spelled_out([node.name for node in report.nodes])
    engines = read_engine_times(folder, evaluation)
    pairs = _rankings(folder, report, model)
    name = folder.resolve().name or "qgraph"
    found = find_graph(folder, evaluation) if graph else None
    return ReportedRun(evaluation, report, profiles, pairs, engines, name, found)


def _rankings(folder: Path, report: Sensitivity, model: ModelId) -> tuple[Pair, ...]:
    pairs: list[Pair] = []
    first = Source(folder / "sensitivity.json", str(report.run.engine))
    for path in sorted(folder.glob("sensitivity-*.json")):
        other = read_document(path, Sensitivity)
        require_same_model(other.model, model, str(path))
        label = path.stem.removeprefix("sensitivity-")
        label = label if label != first.label else f"{label} (2)"
        pairs += compare_rankings(read_rankings([first, Source(path, label)])).pairs
    for path in sorted(folder.glob("comparison*.json")):
        content = read_json(path)
        if isinstance(content, dict) and content.get("schema") == Comparison.SCHEMA:
            pairs += read_document(path, Comparison).pairs
    return tuple(pairs)

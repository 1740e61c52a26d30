"""`qgraph.lint`: TensorRT's rules on a model, and mending what keeps its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from qgraph._graph.bodies import copied
from qgraph._graph.errors import UsageError
from qgraph._graph.io.copies import copy_model
from qgraph._graph.io.external import external_files
from qgraph._graph.io.files import publishing, write_bytes
from qgraph._graph.io.models import identify
from qgraph._graph.rules.finding import Fix, Target
from qgraph._graph.rules.fixes import fix
from qgraph._graph.rules.linting import lint as run_rules
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.rules.report import Lint, count
from qgraph._graph.rules.support import operator_table
from qgraph._sensitivity.report import Sensitivity
from qgraph._steps.given import AnyModel, AnyPath, model_file
from qgraph._steps.inputs import document
from qgraph._steps.lint_costs import placement
from qgraph._steps.making import Quantized


def lint(
    model: AnyModel | Quantized,
    *,
    target: Target | str = Target.TENSORRT_10,
    plugins: Sequence[str] = (),
    sensitivity: Sensitivity | AnyPath | None = None,
) -> Lint:
    """Return the findings of TensorRT's rules in a Q/DQ model of any tool.

    It reads scales and zero points, but no weights. `plugins`: custom operators that the target
    has. `sensitivity`: a report on the float model. With it, `placement` holds the cost and the
    gain of INT8 at each node.

    Raises:
        InputError: not an ONNX model, or its external data cannot be used.
        UsageError: the report is of another model.
    """
    path, known = model_file(model), _target(target)
    graph = QdqGraph.read(path)
    report = _report(path, graph, known, plugins, [])
    if sensitivity is None:
        return report
    scores = document(sensitivity, Sensitivity)
    where = str(sensitivity) if isinstance(sensitivity, str | Path) else "the sensitivity report"
    parts = placement(path, graph, report.findings, scores, where)
    return report.model_copy(update={"metric": scores.metric, "placement": parts})


def mend(
    model: AnyPath,
    output: AnyPath,
    *,
    target: Target = Target.TENSORRT_10,
    plugins: Sequence[str] = (),
) -> Lint:
    """Write `model` to `output` with what can be mended mended; return what is left to find.

    Weights that lie in data files are copied; of a file that other models share, those of this one.

    Raises:
        InputError: not an ONNX model, or its external data cannot be used.
    """
    path, written = Path(model), Path(output)
    graph = QdqGraph.read(path)
    found = run_rules(graph, Target(target), plugins)
    changed = copied(graph.model)
    done = fix(changed, found, graph)
    _write(changed, path, written)
    return _report(written, QdqGraph.read(written), Target(target), plugins, done)


def _target(given: Target | str) -> Target:
    try:
        return Target(given)
    except ValueError as error:
        known = ", ".join(Target)
        raise UsageError(f"found the target {given!r}, expected one of {known}") from error


def _write(model: onnx.ModelProto, source: Path, target: Path) -> None:
    """Write a mended graph; in another folder than `source`, with copies of the data it reads."""
    same_folder = source.parent.resolve() == target.parent.resolve()
    if same_folder or not external_files(model, source.parent):
        write_bytes(target, model.SerializeToString(deterministic=True))
        return
    with publishing(target.parent, last=target.name) as folder:
        copy_model(source, folder / target.name, model)


def _report(
    path: Path, graph: QdqGraph, target: Target, plugins: Sequence[str], done: Sequence[Fix]
) -> Lint:
    findings = tuple(run_rules(graph, target, plugins))
    return Lint(
        schema=Lint.SCHEMA,
        model=path.name,
        sha256=identify(path).sha256,
        target=target,
        operators=operator_table().describe(target),
        quantized=graph.is_quantized,
        counts=count(findings),
        findings=findings,
        fixed=tuple(done),
    )

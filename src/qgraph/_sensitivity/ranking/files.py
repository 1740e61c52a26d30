"""Reading a ranking: our own reports, and what any other tool can write.

| file                          | becomes                                                     |
|-------------------------------|-------------------------------------------------------------|
| `sensitivity.json`            | one score per node, chosen by `Which`                       |
| `.json`, `{name: number}`     | as it stands                                                |
| `.csv`, `name,number` a line  | as it stands; a first line without a number is a heading    |

Reports are of one model, or of two exports of it, whose nodes are matched by their modules.
Names are node names, or module paths (`model.layers.0.mlp.down_proj`) where one of our reports
says which node that is.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import read_document, read_json
from qgraph._graph.io.files import require_file
from qgraph._metrics import metric
from qgraph._sensitivity.ranking.agreement import Ranking
from qgraph._sensitivity.ranking.exports import same_nodes
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.report import NodeScore, Sensitivity

_LARGEST = 64 << 20


class Which(StrEnum):
    """Which score of a report ranks its nodes. `auto`: solo where measured, else gain."""

    AUTO = "auto"
    SOLO = "solo"
    GAIN = "gain"
    INC_SOLO = "inc-solo"
    INC_GAIN = "inc-gain"
    GAUSS_NEWTON = "gauss-newton"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to read. `lower_is_worse`: its smaller values mean more damage, as an SQNR's do.
    `which` is for our reports, whose direction is known.
    """

    path: Path
    label: str
    which: Which = Which.AUTO
    lower_is_worse: bool = False


@dataclass(frozen=True, slots=True)
class _Read:
    source: Source
    ranking: Ranking
    report: Sensitivity | None


def read_rankings(sources: Sequence[Source]) -> list[Ranking]:
    """Return the rankings, module paths replaced by node names where a report knows them.

    Raises:
        InputError: no such file, or not text.
        UsageError: not a ranking, a score a report does not hold, or reports of different models.
    """
    read = [_read(source) for source in sources]
    reports = [item for item in read if item.report is not None]
    read = [_as_in(reports[0], item) if item.report is not None else item for item in read]
    reports = [item for item in read if item.report is not None]
    by_scope = _by_scope([item.report for item in reports if item.report is not None])
    nodes = {name for item in reports for name in item.ranking.scores}
    return [
        item.ranking if item.report is not None else _with_nodes(item.ranking, nodes, by_scope)
        for item in read
    ]


def _read(source: Source) -> _Read:
    if source.path.suffix.lower() == ".csv":
        return _Read(source, _plain(source, _csv_rows(source.path)), None)
    content = read_json(source.path)
    if isinstance(content, dict) and "schema" in content:
        report = read_document(source.path, Sensitivity)
        return _Read(source, _of_report(source, report), report)
    if not isinstance(content, dict):
        raise UsageError("expected an object {name: number}", where=str(source.path))
    return _Read(source, _plain(source, list(content.items())), None)


def _csv_rows(path: Path) -> list[tuple[str, Any]]:
    require_file(path, "CSV file")
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"larger than {_LARGEST >> 20} MiB", where=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not a CSV file: {error}", where=str(path)) from error
    result: list[tuple[str, Any]] = []
    for number, row in enumerate(rows):
        if len(row) != 2:
            raise UsageError(
                f"row {number + 1} has {len(row)} fields, expected a name and a number",
                where=str(path),
            )
        value = _number(row[1])
        if value is None and number == 0:
            continue
        result.append((row[0].strip(), row[1] if value is None else value))
    return result


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(source: Source, rows: Sequence[tuple[str, Any]]) -> Ranking:
    scores: dict[str, float] = {}
    for name, value in rows:
        bad = isinstance(value, bool) or not isinstance(value, int | float)
        if bad or not math.isfinite(value):
            raise UsageError(
                f"{name!r} has {value!r}, expected a finite number", where=str(source.path)
            )
        if name in scores:
            raise UsageError(f"{name!r} stands twice", where=str(source.path))
        scores[name] = -float(value) if source.lower_is_worse else float(value)
    return Ranking(source.label, scores)


def _of_report(source: Source, report: Sensitivity) -> Ranking:
    known = report.nodes
    if source.which is Which.GAUSS_NEWTON:  # not every operator has one
        known = tuple(node for node in known if node.gauss_newton is not None) or known
    scores = {node.name: _chosen(node, report, source) for node in known}
    if beyond := next((name for name, score in scores.items() if not math.isfinite(score)), None):
        raise UsageError(
            f"{beyond!r} has no finite score by {metric(report.metric).label}, as outputs of the"
            " float model are 0 throughout",
            where=str(source.path),
            hint="Score with --metric mse.",
        )
    if source.lower_is_worse:
        raise UsageError("--lower-is-worse is not for reports of qgraph", where=str(source.path))
    notes = [f"scheme {report.scheme}, engine {report.run.engine}, {source.which}"]
    by_metric = source.which in (Which.AUTO, Which.SOLO, Which.GAIN)  # others are of MSE's units
    notes += [f"by {metric(report.metric).label}"] * (by_metric and report.metric != "mse")
    notes += ["gains are estimates"] * (source.which is Which.GAIN and _estimated(report))
    notes += ["made-up data"] * report.run.synthetic
    notes += ["cut short: not every candidate has a score"] * (not report.run.complete)
    return Ranking(source.label, scores, _total(report, source.which), tuple(notes))


def _estimated(report: Sensitivity) -> bool:
    return report.run.estimate is not None


def _total(report: Sensitivity, which: Which) -> float | None:
    everything = report.baseline.all_quantized if report.baseline is not None else None
    if everything is None:
        return None
    if which in (Which.INC_SOLO, Which.INC_GAIN):
        return everything.inc.mse if everything.inc else None
    if which is Which.GAUSS_NEWTON:  # in the units of MSE, whatever ranks
        return everything.mse
    return metric(report.metric).damage(everything.figures)


def _chosen(node: NodeScore, report: Sensitivity, source: Source) -> float:
    value = _value(node, report, source.which)
    if value is None:
        raise UsageError(
            f"the node {node.name!r} has no score {source.which}",
            where=str(source.path),
            hint="Choose another with --score, or measure that direction.",
        )
    return value


def _value(node: NodeScore, report: Sensitivity, which: Which) -> float | None:
    """Return the damage by the report's own metric, or INC's own number; larger is worse."""
    solo, without = node.solo, node.leave_one_out
    if which is Which.GAUSS_NEWTON:
        return node.gauss_newton
    if which is Which.INC_SOLO:
        return solo.inc.mse if solo and solo.inc else None
    if which is Which.INC_GAIN:
        return without.inc.gain if without and without.inc else None
    asked = {
        Which.AUTO: (solo, without),
        Which.SOLO: (solo, None),
        Which.GAIN: (None, without),
    }[which]
    if asked == (None, None):
        return None
    everything = report.baseline.all_quantized if report.baseline is not None else None
    return harm(*asked, everything, report.metric)


def _as_in(first: _Read, other: _Read) -> _Read:
    """Return a report with the names that nodes have in the first, of which it is or an export."""
    if first.report is None or other.report is None:
        return other
    a, b = first.report.model, other.report.model
    if a.sha256 == b.sha256:
        return other
    names = same_nodes(first.report, other.report)
    if names is None:
        raise UsageError(
            f"{first.source.path.name} is of the model {a.path} {a.sha256[:16]}…,"
            f" {other.source.path.name} of {b.path} {b.sha256[:16]}…",
            hint="Compare rankings of one model, or of two exports of it that name the same"
            " modules.",
        )
    ranking = other.ranking
    scores = {names[name]: score for name, score in ranking.scores.items()}
    notes = (*ranking.notes, f"another export ({b.path}): nodes matched by their modules")
    return replace(other, ranking=replace(ranking, scores=scores, notes=notes))


def _by_scope(reports: Sequence[Sensitivity]) -> dict[str, str]:
    """Return module path → node, for the paths that only one node has."""
    nodes: dict[str, set[str]] = {}
    for report in reports:
        for node in report.nodes:
            nodes.setdefault(node.scope, set()).add(node.name)
    return {scope: min(names) for scope, names in nodes.items() if scope and len(names) == 1}


def _with_nodes(ranking: Ranking, nodes: set[str], by_scope: dict[str, str]) -> Ranking:
    scores: dict[str, float] = {}
    for name, score in ranking.scores.items():
        node = name if name in nodes else by_scope.get(name, name)
        if node in scores:
            raise UsageError(f"{ranking.label}: {name!r} and another name are both {node!r}")
        scores[node] = score
    return Ranking(ranking.label, scores, ranking.total, ranking.notes)

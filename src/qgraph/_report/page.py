"""The report of a run as one HTML page that needs no network, and rankings against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from qgraph._graph.printable import all_printable, printable
from qgraph._metrics import metric, quality_key
from qgraph._quantize.profiles import format_counts
from qgraph._report import drawing
from qgraph._report.advice import advice
from qgraph._report.charts import charts
from qgraph._report.engine_times import engine_notes
from qgraph._report.graph_around import graph_around
from qgraph._report.node_charts import rankings
from qgraph._report.node_tables import kept_lists, node_rows, profiles_of_nodes, without_gain
from qgraph._report.reported_run import ReportedRun
from qgraph._report.sentences import latency_notes, notes, verdicts
from qgraph._report.variant_tables import columns, measured_mse, rows, topics
from qgraph._sensitivity.explain.schemes import summary
from qgraph._sensitivity.ranking.comparison import Comparison, Pair

_HERE = Path(__file__).parent
_DISAGREEMENTS = 8


def render_page(run: ReportedRun) -> str:
    """Return the page; the same files give the same bytes."""
    evaluation = run.evaluation
    nodes = node_rows(run)
    drawn = charts(evaluation, run.report, run.pairs)
    quality = quality_key(evaluation.variants[0].metrics)
    return _template("report.html.j2").render(
        project=run.project,
        evaluation=evaluation,
        report=run.report,
        profiles=run.profiles.profiles,
        pairs=run.pairs,
        shown=_DISAGREEMENTS,
        columns=columns(evaluation),
        rows=rows(evaluation),
        topics=topics(evaluation),
        measured_mse=measured_mse,
        format_counts=format_counts,
        notes=[*notes(evaluation), *engine_notes(run.engines)],
        advice=advice(evaluation),
        latency_notes=latency_notes(evaluation),
        verdicts=verdicts(evaluation),
        quality=metric(quality).label,
        barred=any(d.interval for v in evaluation.variants if (d := v.differences.get(quality))),
        by=metric(run.report.metric),
        nodes=nodes,
        schemes=summary(run.report) if run.report.schemes else (),
        formats=run.report.mixed.formats if run.report.mixed is not None else None,
        kept=kept_lists(run.profiles),
        charts=drawn,
        unplaced=without_gain(run.report),
        breakable=_breakable,
        # the only markup that is not escaped: our own style and script, the chart library, and
        # figures as JSON that cannot end the element it stands in
        style=Markup(_text("report.css")),  # noqa: S704
        behaviour=Markup(_text("report.js")),  # noqa: S704
        library=Markup(drawing.script()),  # noqa: S704
        figures=_json(drawn),
        graph=_json(_graph_of(run)),
    )


def _graph_of(run: ReportedRun) -> dict[str, Any] | None:
    """Return the graph around the nodes, where the model was found and its nodes are those."""
    scored = {node.name for node in run.report.nodes}
    if run.graph is None or not scored <= {node.name for node in run.graph.graph.node}:
        return None
    return graph_around(run.graph, scored, profiles_of_nodes(run.profiles))


def _breakable(name: str) -> Markup:
    """Return a name that a line may break after each of its parts."""
    return Markup("<wbr>").join(re.split(r"(?<=[/.])(?=.)", printable(name)))


def _template(name: str) -> Template:
    return Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=all_printable,
    ).get_template(name)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _json(drawn: Mapping[str, Any] | None) -> Markup:
    return Markup(drawing.as_json(drawn).replace("<", "\\u003c"))  # noqa: S704


def scatter_page(comparison: Comparison) -> str:
    """Return an HTML page with one chart per pair: ranks of the common nodes, 1 the most sensitive.

    Nodes on the diagonal have the same rank in both.
    """
    figures = {f"ranking-{index}": rankings(pair) for index, pair in enumerate(comparison.pairs)}
    return _template("scatter.html.j2").render(
        titles=[_title(pair) for pair in comparison.pairs],
        style=Markup(_text("report.css")),  # noqa: S704
        library=Markup(drawing.script()),  # noqa: S704
        figures=_json(figures),
    )


def _title(pair: Pair) -> str:
    head = f"{pair.a} and {pair.b}: {pair.common} nodes"
    if pair.spearman is None or pair.kendall is None:
        return head
    return f"{head}, Spearman {pair.spearman:.3f}, Kendall {pair.kendall:.3f}"

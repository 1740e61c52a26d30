"""The report of a run as one HTML page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation import drawing
from evaluation.charts import Spec, charts
from evaluation.engine_times import engine_notes
from evaluation.layers import Placed, place
from evaluation.markdown import columns, notes, rows
from evaluation.metrics import metric, quality_key
from evaluation.run_folder import RunFolder
from evaluation.verdicts import verdicts
from quantize.profiles import Profiles
from sensitivity.report import NodeScore

_HERE = Path(__file__).parent
_TEMPLATE = "report.html.j2"
_DISAGREEMENTS = 8


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A row of the table of nodes. `profiles`: those that quantize it; `cause`, `remedy`: texts,
    empty where the report names none.
    """

    placed: Placed
    profiles: str
    cause: str
    remedy: str

    @property
    def node(self) -> NodeScore:
        """Return the node's scores."""
        return self.placed.node


def render_page(run: RunFolder) -> str:
    """Return the page; the same files give the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evaluation = run.evaluation
    nodes = node_rows(run)
    drawn = charts(evaluation, run.report, run.pairs)
    return environment.get_template(_TEMPLATE).render(
        evaluation=evaluation,
        report=run.report,
        profiles=run.profiles.profiles,
        pairs=run.pairs,
        shown=_DISAGREEMENTS,
        columns=columns(evaluation, narrow=True),
        rows=rows(evaluation, narrow=True),
        all_columns=columns(evaluation),
        all_rows=rows(evaluation),
        notes=[*notes(evaluation), *engine_notes(run.engines)],
        verdicts=verdicts(evaluation),
        quality=metric(quality_key(evaluation.variants[0].metrics)).label,
        nodes=nodes,
        has_causes=any(row.cause or row.remedy for row in nodes),
        charts=drawn,
        # the only markup that is not escaped: our own style and script, the chart library, and
        # figures as JSON that cannot end the element it stands in
        style=Markup(_text("report.css")),  # noqa: S704
        behaviour=Markup(_text("report.js")),  # noqa: S704
        library=Markup(drawing.script()),  # noqa: S704
        figures=_json(drawn),
    )


def node_rows(run: RunFolder) -> list[NodeRow]:
    """Return the table of nodes, most sensitive first."""
    inside = quantized_by(run.profiles)
    ordered = sorted(run.report.nodes, key=lambda node: node.rank)
    return [
        NodeRow(item, inside.get(item.node.name, ""), *cause_of(item.node))
        for item in place(ordered)
    ]


def quantized_by(profiles: Profiles) -> dict[str, str]:
    """Return node → the profiles that quantize it."""
    found: dict[str, list[str]] = {}
    for profile in profiles.profiles:
        for name in profile.quantize:
            found.setdefault(name, []).append(profile.name)
    return {name: " ".join(names) for name, names in found.items()}


def cause_of(node: NodeScore) -> tuple[str, str]:
    """Return why a node is sensitive and what would help; empty where the report does not say."""
    return ("", "") if node.cause is None else (node.cause.why, node.cause.remedy)


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _json(drawn: Mapping[str, Spec]) -> Markup:
    text = json.dumps(drawn, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704

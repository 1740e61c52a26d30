"""Documents as a notebook shows them: the tables and the first chart of the page, small."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib.util import find_spec

from qgraph._evaluation.results import Evaluation
from qgraph._graph.printable import printable
from qgraph._metrics import metric
from qgraph._report.advice import advice
from qgraph._report.node_charts import heat_map, node_errors
from qgraph._report.sentences import notes
from qgraph._report.spec import Spec
from qgraph._report.variant_charts import frontier_by_share
from qgraph._report.variant_tables import columns, rows
from qgraph._sensitivity.ranking.node_figures import node_figures
from qgraph._sensitivity.report import NodeScore, Sensitivity

_WORST = 15


def evaluation_html(evaluation: Evaluation) -> str:
    """Return what to deploy, the table of variants, and quality against the share in 8 bits."""
    first, *others = advice(evaluation) or [""]
    return "".join(
        [
            f"<p><strong>{_text(first)}</strong> {_text(' '.join(others))}</p>" if first else "",
            _table(columns(evaluation), rows(evaluation)),
            _drawn(frontier_by_share(evaluation)),
            *(f"<p><small>{_text(note)}</small></p>" for note in notes(evaluation)),
        ]
    )


def sensitivity_html(report: Sensitivity) -> str:
    """Return the most sensitive nodes, and the errors of all in a chart."""
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    name = metric(report.metric).damage_name
    more = f" The {_WORST} most sensitive:" if len(nodes) > _WORST else ""
    run = report.run
    made_up = " of made-up data, a rough guide" * run.synthetic
    return "".join(
        [
            f"<p>{_text(report.model.path)}: {len(nodes)} nodes scored under {_text(report.scheme)}"
            f" on {run.samples} samples{made_up}, {len(report.keep)} kept float.{more}</p>",
            f"<p>{_text(found)}</p>" if (found := report.found()) is not None else "",
            _table(
                ["rank", "node", name, "SQNR dB"],
                [_row(node, report) for node in nodes[:_WORST]],
            ),
            _drawn(heat_map(report) or node_errors(report)),
        ]
    )


def _row(node: NodeScore, report: Sensitivity) -> list[str]:
    damage = node_figures(node, report).damage
    ratio = None if node.solo is None else node.solo.sqnr_db
    return [
        str(node.rank),
        node.name,
        "–" if damage is None else f"{damage:.2e}",
        "–" if ratio is None else f"{ratio:.1f}",
    ]


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _table(headings: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(item)}</th>" for item in headings)
    lines = "".join(
        f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in body
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _drawn(spec: Spec | None) -> str:
    """Return a chart as an image, in which nothing can run; none without the `report` extra."""
    if spec is None or find_spec("vl_convert") is None:
        return ""
    # see above
    from qgraph._report.drawing import FigureKind, draw

    picture = b64encode(draw(spec, FigureKind.SVG)).decode()
    what = _text(spec.get("description", ""))
    return f'<img alt="{what}" src="data:image/svg+xml;base64,{picture}" style="max-width:640px">'

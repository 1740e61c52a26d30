"""Rankings against each other as a page of its own that needs no network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from qgraph._graph.printable import all_printable
from qgraph._report import drawing
from qgraph._report.node_charts import rankings
from qgraph._sensitivity.ranking.comparison import Comparison, Pair

_HERE = Path(__file__).parent


def scatter_page(comparison: Comparison) -> str:
    """Return an HTML page with one chart per pair: ranks of the common nodes, 1 the most sensitive.

    Nodes on the diagonal have the same rank in both.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=all_printable,
    )
    figures = {f"ranking-{index}": rankings(pair) for index, pair in enumerate(comparison.pairs)}
    text = drawing.as_json(figures).replace("<", "\\u003c")
    return environment.get_template("scatter.html.j2").render(
        titles=[_title(pair) for pair in comparison.pairs],
        # our own style, the chart library, and figures that cannot end the element they stand in
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),  # noqa: S704
        library=Markup(drawing.script()),  # noqa: S704
        figures=Markup(text),  # noqa: S704
    )


def _title(pair: Pair) -> str:
    head = f"{pair.a} and {pair.b}: {pair.common} nodes"
    if pair.spearman is None or pair.kendall is None:
        return head
    return f"{head}, Spearman {pair.spearman:.3f}, Kendall {pair.kendall:.3f}"

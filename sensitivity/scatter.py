"""One ranking against another as a picture: a page of its own that needs no network.

plotly comes with the `report` extra; nothing else here imports this module.
"""

from __future__ import annotations

import html

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sensitivity.compare import Comparison, Pair


def scatter_page(comparison: Comparison) -> str:
    """Return an HTML page with one panel per pair: ranks of the common nodes, 1 the most sensitive.

    Nodes on the diagonal have the same rank in both.
    """
    figure = make_subplots(
        rows=len(comparison.pairs), cols=1, subplot_titles=[_title(p) for p in comparison.pairs]
    )
    for row, pair in enumerate(comparison.pairs, start=1):
        figure.add_trace(_points(pair), row=row, col=1)
        figure.add_trace(_diagonal(pair), row=row, col=1)
        figure.update_xaxes(title_text=f"rank in {html.escape(pair.a)}", row=row, col=1)
        figure.update_yaxes(title_text=f"rank in {html.escape(pair.b)}", row=row, col=1)
    figure.update_layout(height=560 * len(comparison.pairs), width=760, showlegend=False)
    page: str = figure.to_html(include_plotlyjs=True, full_html=True)
    return page


def _points(pair: Pair) -> go.Scatter:
    return go.Scatter(
        x=[node.rank_a for node in pair.nodes],
        y=[node.rank_b for node in pair.nodes],
        mode="markers",
        text=[
            f"{html.escape(node.name)}<br>{node.score_a:.3e} | {node.score_b:.3e}"
            for node in pair.nodes
        ],
        hoverinfo="text",
        marker={"size": 8, "opacity": 0.7},
    )


def _diagonal(pair: Pair) -> go.Scatter:
    ends = [1, pair.common]
    return go.Scatter(x=ends, y=ends, mode="lines", hoverinfo="skip", line={"dash": "dot"})


def _title(pair: Pair) -> str:
    if pair.spearman is None or pair.kendall is None:
        return f"{pair.common} nodes"
    return f"{pair.common} nodes, Spearman {pair.spearman:.3f}, Kendall {pair.kendall:.3f}"

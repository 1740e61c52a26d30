"""Charts of nodes: where in the model the error arises, and how rankings agree."""

from __future__ import annotations

from typing import Any

from qgraph._report.locate import Placed, place
from qgraph._report.spec import ACCENT, SECOND, Spec, chart, equality, log_axis, without_none
from qgraph._sensitivity.ranking.agreement import Pair
from qgraph._sensitivity.report import NodeScore, Sensitivity


def heat_map(report: Sensitivity) -> Spec | None:
    """Return layers × kinds, coloured by error; None where names hold no layers."""
    placed = [item for item in place(report.nodes) if item.layer is not None]
    if len({item.layer for item in placed}) < 2:
        return None
    kinds = list(dict.fromkeys(item.kind for item in placed))
    encoding = {
        "x": {"field": "kind", "type": "nominal", "sort": kinds, "title": None,
              "axis": {"orient": "top", "labelAngle": 0 if len(kinds) < 5 else -35,
                       "labelOverlap": False}},
        "y": {"field": "layer", "type": "ordinal", "title": "layer"},
        "color": {
            "field": "error", "type": "quantitative", "scale": {"type": "log", "scheme": "viridis"},
            "title": "error alone (MSE)",
            "legend": {"format": "~e", "tickCount": 5, "orient": "bottom", "gradientLength": 220},
        },
        "tooltip": _NODE_TOOLTIP,
    }  # fmt: skip
    what = "Error of each node alone, by layer and kind; the table below holds the same figures."
    mark = {"type": "rect", "cornerRadius": 2, "cursor": "pointer"}
    layers = len({item.layer for item in placed})
    step = 24 if layers <= 40 else 14
    data = [row for item in placed if (row := _node(item)) and row["error"] is not None]
    return chart(what, data, mark=mark, encoding=encoding, height=step * layers)


def node_errors(report: Sensitivity) -> Spec | None:
    """Return the error of every node by rank, coloured by kind; log scale."""
    placed = place(report.nodes)
    data = [row for item in placed if (row := _node(item))["error"] is not None]
    if not data:
        return None
    kinds = list(dict.fromkeys(item.kind for item in placed))
    encoding = {
        "x": {"field": "rank", "type": "quantitative", "title": "rank (1 is the most sensitive)",
              "scale": {"domainMin": 0, "nice": False}},
        "y": log_axis("error", "error of this node alone (MSE)", [row["error"] for row in data]),
        "color": {"field": "kind", "type": "nominal", "sort": kinds, "title": None,
                  "legend": {"orient": "top", "columns": 3, "symbolLimit": 20}},
        "tooltip": _NODE_TOOLTIP,
    }  # fmt: skip
    what = "Error of every node alone, most sensitive first, coloured by kind of layer."
    mark = {"type": "point", "filled": True, "size": 60, "opacity": 0.9, "cursor": "pointer"}
    return chart(what, data, mark=mark, encoding=encoding, height=300)


def in_company(report: Sensitivity) -> Spec | None:
    """Return what leaving a node out gains against its error alone, where both were measured.

    Where errors add up the two are equal. A gain that is negative has no place on a log scale.
    """
    data = [
        row | {"x": row["error"], "y": row["gain"]}
        for item in place(report.nodes)
        if item.node.solo is not None and (row := _node(item))["error"] and row.get("gain", 0) > 0
    ]
    if len(data) < 2:
        return None
    x = log_axis("x", "error of this node alone (MSE)", [row["x"] for row in data])
    y = log_axis("y", "gain when it alone stays float (MSE)", [row["y"] for row in data])
    mark = {"type": "point", "filled": True, "size": 60, "opacity": 0.9, "cursor": "pointer"}
    layers = [
        equality(x, y),
        {
            "mark": mark | {"color": ACCENT},
            "encoding": {"x": x, "y": y, "tooltip": _NODE_TOOLTIP},
        },
    ]
    what = (
        "Gain of leaving each node float while all others are quantized, against its error alone."
    )
    return chart(what, data, height=320, layer=layers)


_NODE_TOOLTIP = [
    {"field": "node"},
    {"field": "rank"},
    {"field": "error", "title": "MSE alone", "format": ".3e"},
    {"field": "gain", "title": "gain if left out", "format": "+.2e"},
]


def rankings(pair: Pair) -> Spec:
    """Return the ranks of the nodes two rankings share; on the line they agree."""
    points = [
        {
            "node": node.name,
            "x": node.rank_a,
            "y": node.rank_b,
            "a": node.score_a,
            "b": node.score_b,
        }
        for node in pair.nodes
    ]
    x = {"field": "x", "type": "quantitative", "title": f"rank in {pair.a}"}
    y = {"field": "y", "type": "quantitative", "title": f"rank in {pair.b}"}
    tooltip = [
        {"field": "node"},
        {"field": "x", "title": f"rank in {pair.a}"},
        {"field": "y", "title": f"rank in {pair.b}"},
        {"field": "a", "title": f"score in {pair.a}", "format": ".3e"},
        {"field": "b", "title": f"score in {pair.b}", "format": ".3e"},
    ]
    layers: list[Spec] = [
        {
            "data": {"values": [{"x": 1, "y": 1}, {"x": pair.common, "y": pair.common}]},
            "mark": {"type": "line", "strokeDash": [4, 4], "color": SECOND},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 50, "color": ACCENT},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
    ]
    what = f"Rank of each node in {pair.b} against its rank in {pair.a}."
    return chart(what, points, height=320, layer=layers)


def _node(item: Placed) -> dict[str, Any]:
    return without_none(
        node=item.node.name,
        layer=item.layer,
        kind=item.kind,
        rank=item.node.rank,
        gain=item.node.leave_one_out.gain if item.node.leave_one_out else None,
    ) | {"error": error_of(item.node)}


def error_of(node: NodeScore) -> float | None:
    """Return the error to show on a log scale: alone, else the gain of leaving it out."""
    if node.solo is not None:
        return node.solo.mse or None
    gain = node.leave_one_out.gain if node.leave_one_out else None
    return gain if gain and gain > 0 else None

"""Charts of nodes: where in the model the error arises, and how rankings agree."""

from __future__ import annotations

from qgraph._metrics import metric
from qgraph._report.node_tables import Placed, place
from qgraph._report.spec import (
    ACCENT,
    Spec,
    chart,
    equality,
    layer,
    log_axis,
    number,
    point,
    rank_axis,
    without_none,
)
from qgraph._sensitivity.explain.schemes import damages, scheme_names, two_schemes
from qgraph._sensitivity.ranking.comparison import Pair
from qgraph._sensitivity.ranking.node_figures import NodeFigures, node_figures
from qgraph._sensitivity.report import Sensitivity

_POINT = point(60, opacity=0.9, cursor="pointer")


def _tooltip(report: Sensitivity) -> list[Spec]:
    name = metric(report.metric).damage_name
    return [
        {"field": "node"},
        {"field": "rank"},
        number("error", f"{name} alone", format=".3e"),
        number("gain", f"gain if left out: {name}", format="+.2e"),
    ]


def _alone(report: Sensitivity) -> str:
    return f"error alone: {metric(report.metric).damage_axis}"


def heat_map(report: Sensitivity) -> Spec | None:
    """Return layers × kinds, coloured by error; None where names hold no layers."""
    placed = [item for item in place(report.nodes) if item.layer is not None]
    layers = len({item.layer for item in placed})
    if layers < 2:
        return None
    kinds = list(dict.fromkeys(item.kind for item in placed))
    above = {"orient": "top", "labelAngle": 0 if len(kinds) < 5 else -35, "labelOverlap": False}
    legend = {"format": "~e", "tickCount": 5, "orient": "bottom", "gradientLength": 220}
    drawn = layer(
        {"type": "rect", "cornerRadius": 2, "cursor": "pointer"},
        x={"field": "kind", "type": "nominal", "sort": kinds, "title": None, "axis": above},
        y={"field": "layer", "type": "ordinal", "title": "layer"},
        color=number(
            "error",
            f"alone: {metric(report.metric).damage_name}",
            scale={"type": "log", "scheme": "viridis"},
            legend=legend,
        ),
        tooltip=_tooltip(report),
    )
    what = "Error of each node alone, by layer and kind; the table below holds the same figures."
    return chart(what, _with_error(report, placed), (24 if layers <= 40 else 14) * layers, drawn)


def node_errors(report: Sensitivity) -> Spec | None:
    """Return the error of every node by rank, coloured by kind; log scale."""
    placed = place(report.nodes)
    rows = _with_error(report, placed)
    if not rows:
        return None
    kinds = list(dict.fromkeys(item.kind for item in placed))
    legend = {"orient": "top", "columns": 3, "symbolLimit": 20}
    drawn = layer(
        _POINT,
        x=rank_axis("rank", "rank (1 is the most sensitive)", max(row["rank"] for row in rows)),
        y=log_axis("error", _alone(report), [row["error"] for row in rows]),
        color={"field": "kind", "type": "nominal", "sort": kinds, "title": None, "legend": legend},
        tooltip=_tooltip(report),
    )
    what = "Error of every node alone, most sensitive first, coloured by kind of layer."
    return chart(what, rows, 300, drawn)


def in_company(report: Sensitivity) -> Spec | None:
    """Return what leaving a node out gains against its error alone, where both were measured.

    Where errors add up the two are equal. A gain that is negative has no place on a log scale.
    """
    both = [item for item in place(report.nodes) if item.node.solo is not None]
    rows = [
        row | {"x": row["error"], "y": row["gain"]}
        for row in _with_error(report, both)
        if row.get("gain", 0) > 0
    ]
    if len(rows) < 2:
        return None
    name = metric(report.metric).damage_axis
    x = log_axis("x", _alone(report), [row["x"] for row in rows])
    y = log_axis("y", f"gain if left out: {name}", [row["y"] for row in rows])
    points = layer(_POINT | {"color": ACCENT}, x=x, y=y, tooltip=_tooltip(report))
    what = (
        "Gain of leaving each node float while all others are quantized, against its error alone."
    )
    return chart(what, rows, 320, equality(x, y), points)


def side_by_side(report: Sensitivity) -> Spec | None:
    """Return the error of each node alone under two schemes, coloured by the better one; where the
    report has nodes in either, by the one that a node is in.
    """
    places, names = two_schemes(report), scheme_names(report)
    if places is None:
        return None
    formats = {} if report.mixed is None else report.mixed.formats
    rows: list[Spec] = []
    for item in place(report.nodes):
        found = damages(item.node, report)
        x, y = (found[at] for at in places)
        if x and y and x > 0 and y > 0:
            better = formats.get(item.node.name, names[places[y < x]])
            rows.append(
                {"node": item.node.name, "kind": item.kind, "x": x, "y": y} | {"in": better}
            )
    if not rows:
        return None
    first, second = (names[at] for at in places)
    name = metric(report.metric).damage_axis
    x_axis = log_axis("x", f"{first}: {name}", [row["x"] for row in rows])
    y_axis = log_axis("y", f"{second}: {name}", [row["y"] for row in rows])
    kinds = {"sort": [first, second], "title": None, "legend": {"orient": "top"}}
    tooltip = [
        *({"field": "node"}, {"field": "kind"}, {"field": "in", "title": "format"}),
        *(number("x", first, format=".3e"), number("y", second, format=".3e")),
    ]
    color = {"field": "in", "type": "nominal", **kinds}
    points = layer(_POINT, x=x_axis, y=y_axis, color=color, tooltip=tooltip)
    what = f"Error of each node alone in {second} against {first}, which is better above the line."
    return chart(what, rows, 320, equality(x_axis, y_axis), points)


def rankings(pair: Pair) -> Spec:
    """Return the ranks of the nodes two rankings share; on the line they agree."""
    x = rank_axis("x", f"rank in {pair.a}", pair.common)
    y = rank_axis("y", f"rank in {pair.b}", pair.common)
    scores = [("a", f"score in {pair.a}"), ("b", f"score in {pair.b}")]
    told = (number(axis["field"], axis["title"]) for axis in (x, y))
    tooltip = [{"field": "node"}, *told, *(number(*score, format=".3e") for score in scores)]
    rows: list[Spec] = [
        {"node": it.name, "x": it.rank_a, "y": it.rank_b, "a": it.score_a, "b": it.score_b}
        for it in pair.nodes
    ]
    points = layer(point(50, color=ACCENT), x=x, y=y, tooltip=tooltip)
    what = f"Rank of each node in {pair.b} against its rank in {pair.a}."
    return chart(what, rows, 320, equality(x, y), points)


def _with_error(report: Sensitivity, placed: list[Placed]) -> list[Spec]:
    """Return the row of each node that has an error to show on a log scale."""
    found = [(item, node_figures(item.node, report)) for item in placed]
    return [
        without_none(
            node=item.node.name,
            layer=item.layer,
            kind=item.kind,
            rank=item.node.rank,
            gain=figures.gain,
            error=error,
        )
        for item, figures in found
        if (error := error_of(figures)) is not None
    ]


def error_of(figures: NodeFigures) -> float | None:
    """Return the error to show on a log scale: alone, else the gain of leaving it out."""
    found = figures.gain if figures.damage is None else figures.damage
    return found if found is not None and found > 0 else None

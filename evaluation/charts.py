"""The charts of the report, as Vega-Lite specifications: numbers in, nothing else.

One description serves the page (drawn in the browser, with tooltips) and the figures for papers
(drawn without one). https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.layers import Placed, place
from evaluation.metrics import metric, quality_key
from evaluation.results import Evaluation, Variant
from sensitivity.compare import Pair
from sensitivity.report import NodeScore, Sensitivity

Spec = dict[str, Any]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_ACCENT, _SECOND, _SOFT = "#2563eb", "#d97706", "#767d8b"
_PALETTE = ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#64748b"]
_LOG = {"type": "log"}
_LABEL = {"type": "text", "fontSize": 13, "fontWeight": 600, "color": _SOFT}
_FEW_POWERS = {"format": "~e", "tickCount": 6}
_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _SOFT, "titleColor": _SOFT, "gridColor": "#8b93a1", "gridOpacity": 0.22,
        "domainColor": _SOFT, "tickColor": _SOFT, "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "titlePadding": 8,
    },
    "legend": {"labelColor": _SOFT, "titleColor": _SOFT, "titleFontWeight": "normal",
               "labelFontSize": 12, "titleFontSize": 12},
    "range": {"category": _PALETTE},
}  # fmt: skip


def charts(
    evaluation: Evaluation, report: Sensitivity, pairs: Sequence[Pair] = ()
) -> dict[str, Spec]:
    """Return name → chart, in the order of the page; a chart without data is left out."""
    found = {
        "frontier": frontier(evaluation, Share),
        "size": frontier(evaluation, Size),
        "prediction": predicted_against_measured(evaluation),
        "heatmap": heat_map(report),
        "nodes": node_errors(report),
        **{f"ranking-{index}": rankings(pair) for index, pair in enumerate(pairs)},
    }
    return {name: chart for name, chart in found.items() if chart is not None}


class Share:
    """The x axis of INT8's share."""

    title = "MACs in INT8 (%)"

    @staticmethod
    def of(variant: Variant) -> float | None:
        """Return the share of MACs in percent."""
        return None if variant.int8_share is None else 100 * variant.int8_share.macs


class Size:
    """The x axis of file size."""

    title = "size (MB)"

    @staticmethod
    def of(variant: Variant) -> float | None:
        """Return the size in megabytes."""
        return variant.size_bytes / 1e6


def frontier(evaluation: Evaluation, along: type[Share] | type[Size]) -> Spec | None:
    """Return what INT8 costs, as difference from float with its interval, one point per variant."""
    key = quality_key(evaluation.variants[0].metrics)
    known = metric(key)
    points = [
        _without_none(
            variant=item.name,
            x=along.of(item),
            y=change.value if change else 0.0,
            low=change.interval[0] if change and change.interval else None,
            high=change.interval[1] if change and change.interval else None,
            measured=known.form.format(item.metrics[key]),
            below=index % 2 == 1,
        )
        for index, item in enumerate(evaluation.variants)
        if key in item.metrics and along.of(item) is not None
        for change in [item.differences.get(key)]
    ]
    if len(points) < 2:
        return None
    x: Spec = {"field": "x", "type": "quantitative", "title": along.title, "scale": {"zero": False}}
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "title": f"{known.axis or known.label} − float's",
    }
    tooltip = [
        {"field": "variant"},
        {"field": "x", "title": along.title, "format": ".1f"},
        {"field": "measured", "title": known.label},
        {"field": "y", "title": "− float's", "format": "+.3g"},
        {"field": "low", "title": "95 % from", "format": "+.3g"},
        {"field": "high", "title": "to", "format": "+.3g"},
    ]
    what = f"{known.label} less the float model's against {along.title}, one point per variant."
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "color": _ACCENT, "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "color": _ACCENT, "strokeWidth": 2},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "color": _ACCENT, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
        # the first two often lie close together
        *(
            {
                "transform": [{"filter": f"datum.below === {str(below).lower()}"}],
                "mark": _LABEL | {"dy": 17 if below else -13},
                "encoding": {"x": x, "y": y, "text": {"field": "variant"}},
            }
            for below in (True, False)
        ),
    ]
    return _chart(what, points, height=280, layer=layers)


def predicted_against_measured(evaluation: Evaluation) -> Spec | None:
    """Return measured against predicted MSE, with the line where they are equal."""
    points: list[dict[str, Any]] = [
        {"variant": item.name, "x": item.predicted["mse"], "y": item.metrics["mse"]}
        for item in evaluation.variants
        if item.predicted.get("mse") and item.metrics.get("mse")
    ]
    if not points:
        return None
    values = [value for point in points for value in (point["x"], point["y"])]
    ends = [{"x": end, "y": end} for end in (min(values), max(values))]
    x = {"field": "x", "type": "quantitative", "scale": _LOG, "axis": _FEW_POWERS,
         "title": "predicted MSE (sum of single errors)"}  # fmt: skip
    y = {"field": "y", "type": "quantitative", "scale": _LOG, "axis": _FEW_POWERS,
         "title": "measured MSE"}  # fmt: skip
    tooltip = [
        {"field": "variant"},
        {"field": "x", "title": "predicted", "format": ".3e"},
        {"field": "y", "title": "measured", "format": ".3e"},
    ]
    what = "Measured MSE against the predicted, one point per variant; on the line they are equal."
    layers: list[Spec] = [
        {
            "data": {"values": ends},
            "mark": {"type": "line", "strokeDash": [4, 4], "color": _SECOND},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "color": _ACCENT, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
        {
            "mark": _LABEL | {"dy": -13},
            "encoding": {"x": x, "y": y, "text": {"field": "variant"}},
        },
    ]
    return _chart(what, points, height=280, layer=layers)


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
    return _chart(what, data, mark=mark, encoding=encoding, height=step * layers)


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
        "y": {"field": "error", "type": "quantitative", "scale": _LOG, "axis": _FEW_POWERS,
              "title": "error of this node alone (MSE)"},
        "color": {"field": "kind", "type": "nominal", "sort": kinds, "title": None,
                  "legend": {"orient": "top", "columns": 3, "symbolLimit": 20}},
        "tooltip": _NODE_TOOLTIP,
    }  # fmt: skip
    what = "Error of every node alone, most sensitive first, coloured by kind of layer."
    mark = {"type": "point", "filled": True, "size": 60, "opacity": 0.9, "cursor": "pointer"}
    return _chart(what, data, mark=mark, encoding=encoding, height=300)


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
            "mark": {"type": "line", "strokeDash": [4, 4], "color": _SECOND},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 50, "color": _ACCENT},
            "encoding": {"x": x, "y": y, "tooltip": tooltip},
        },
    ]
    what = f"Rank of each node in {pair.b} against its rank in {pair.a}."
    return _chart(what, points, height=320, layer=layers)


def _node(item: Placed) -> dict[str, Any]:
    return _without_none(
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


def _without_none(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _chart(what: str, data: Sequence[Mapping[str, Any]], **rest: Any) -> Spec:
    return {
        "$schema": _SCHEMA,
        "description": what,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "data": {"values": list(data)},
        **rest,
    }

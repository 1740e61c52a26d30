"""What all charts have in common: Vega-Lite specifications, their colours and axes.

https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

ACCENT, SECOND, _SOFT = "#2563eb", "#d97706", "#767d8b"
LABEL = {"type": "text", "fontSize": 13, "fontWeight": 600, "color": _SOFT}
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_PALETTE = ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#64748b"]
_MOST_POWERS = 7
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


def chart(what: str, data: Sequence[Mapping[str, Any]], **rest: Any) -> Spec:
    """Return a chart as wide as its place; `what` describes it to who cannot see it."""
    return {
        "$schema": _SCHEMA,
        "description": what,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "data": {"values": list(data)},
        **rest,
    }


def log_axis(field: str, title: str, values: Sequence[float]) -> Spec:
    """Return the encoding of positive `values` on a log scale with a line per power of ten."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    step = math.ceil((high - low) / _MOST_POWERS)
    powers = [10.0**power for power in range(low, high + 1, step)]
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "domain": [10.0**low, 10.0**high]},
        "axis": {"format": "~e", "values": powers},
    }


def equality(axis: Spec, other: Spec) -> Spec:
    """Return the layer of a line on which both axes, of fields x and y, have one value."""
    domains = [side["scale"]["domain"] for side in (axis, other)]
    ends = max(low for low, _ in domains), min(high for _, high in domains)
    return {
        "data": {"values": [{"x": end, "y": end} for end in ends]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": SECOND},
        "encoding": {"x": axis, "y": other},
    }


def without_none(**values: Any) -> dict[str, Any]:
    """Return the values that are there."""
    return {key: value for key, value in values.items() if value is not None}

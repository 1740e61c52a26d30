"""What all charts have in common: Vega-Lite specifications, their colours and axes.

https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

ACCENT, _SECOND, _SOFT = "#2563eb", "#d97706", "#767d8b"
LABEL = {"type": "text", "fontSize": 13, "fontWeight": 600, "color": _SOFT}
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_PALETTE = ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#64748b"]
_MOST_POWERS = 7
_TEXTS = {
    "labelColor": _SOFT, "titleColor": _SOFT, "labelFontSize": 12, "titleFontSize": 12,
    "titleFontWeight": "normal",
}  # fmt: skip
_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_TEXTS, "gridColor": "#8b93a1", "gridOpacity": 0.22, "domainColor": _SOFT,
        "tickColor": _SOFT, "titlePadding": 8, "labelOverlap": "greedy", "labelSeparation": 5,
    },
    "legend": {**_TEXTS, "labelOverlap": "greedy", "labelSeparation": 5},
    "range": {"category": _PALETTE},
}  # fmt: skip


def chart(what: str, rows: Sequence[Spec], height: int, *layers: Spec) -> Spec:
    """Return a chart as wide as its place; `what` describes it to who cannot see it."""
    return {
        "$schema": _SCHEMA,
        "description": what,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "data": {"values": list(rows)},
        **(layers[0] if len(layers) == 1 else {"layer": list(layers)}),
    }


def layer(mark: Spec, **encoding: Any) -> Spec:
    """Return a layer: a mark and what its channels show."""
    return {"mark": mark, "encoding": encoding}


def point(size: int, **more: Any) -> Spec:
    """Return the mark of a point, `size` in square pixels."""
    return {"type": "point", "filled": True, "size": size, **more}


def number(field: str, title: str, **more: Any) -> Spec:
    """Return the encoding of a number, or its line in a tooltip."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def log_axis(field: str, title: str, values: Sequence[float]) -> Spec:
    """Return the encoding of positive `values` on a log scale with a line per power of ten."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    step = math.ceil((high - low) / _MOST_POWERS)
    lines = [10.0**power for power in range(low, high + 1, step)]
    scale = {"type": "log", "domain": [10.0**low, 10.0**high]}
    return number(field, title, scale=scale, axis={"format": "~e", "values": lines})


def rank_axis(field: str, title: str, last: int) -> Spec:
    """Return the encoding of ranks from 1 to `last`; no tick lies before the first."""
    steps = (first * 10**power for power in range(9) for first in (1, 2, 5))
    step = next(step for step in steps if last <= 10 * step)
    ticks = [1, *range(step + (step == 1), last + 1, step)]
    return number(field, title, scale={"domain": [0.5, last + 0.5]}, axis={"values": ticks})


def equality(x: Spec, y: Spec) -> Spec:
    """Return the layer of a line on which both axes, of fields x and y, have one value, as far as
    both scales reach.
    """
    domains = [side["scale"]["domain"] for side in (x, y)]
    ends = max(low for low, _ in domains), min(high for _, high in domains)
    line = layer({"type": "line", "strokeDash": [4, 4], "color": _SECOND}, x=x, y=y)
    return line | {"data": {"values": [{"x": end, "y": end} for end in ends]}}


def without_none(**values: Any) -> Spec:
    """Return the values that are there."""
    return {key: value for key, value in values.items() if value is not None}

"""Vega-Lite specifications drawn: the script for a page, and pictures without a browser.

vl-convert comes with the `report` extra; nothing else imports it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import vl_convert

from qgraph._graph.printable import all_printable
from qgraph._report.spec import Spec

_WIDTH = 640
_SCALE = 2.0
_VERSION = "6.4"
_EXPOSED = "window.vegaEmbed = vegaEmbed;"
"""What of the bundle the page's own script may call."""


class FigureKind(StrEnum):
    """The formats of figures."""

    SVG = "svg"
    PNG = "png"


@cache
def script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that can stand inside a page."""
    bundle: str = vl_convert.javascript_bundle(_EXPOSED, vl_version=_VERSION)
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def as_json(figures: Mapping[str, Any] | None) -> str:
    """Return charts as JSON. Control characters, which no SVG may hold, are spelled out."""
    return json.dumps(all_printable(figures), ensure_ascii=False, allow_nan=False)


def draw(spec: Spec, kind: FigureKind) -> bytes:
    """Return a chart as SVG or PNG on white, for a paper."""
    paper = spec | {"width": _WIDTH, "config": spec["config"] | {"background": "white"}}
    paper.pop("autosize", None)
    text = as_json(paper)
    if kind is FigureKind.SVG:
        svg: str = vl_convert.vegalite_to_svg(text, vl_version=_VERSION)
        return svg.encode("utf-8")
    png: bytes = vl_convert.vegalite_to_png(text, vl_version=_VERSION, scale=_SCALE)
    return png

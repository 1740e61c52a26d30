"""Curves of a figure over the share quantized: judged sample by sample, as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import vl_convert

from qgraph._graph.tensors import Array

SHARES = {"25": 0.25, "50": 0.5, "75": 0.75, "100": 1.0}
_DRAWS = 2000


@dataclass(frozen=True)
class Figure:
    """`key`: what is shown; `error`: the sums it is judged by, less is better."""

    key: str
    error: str
    form: str
    title: str
    log: bool = False


KL = Figure("kl", "kl", "{:.2e}", "KL to float (nats)", log=True)
SQNR = Figure("sqnr_db", "mse", "{:.2f}", "SQNR to float (dB, higher is better)")


@dataclass
class Curve:
    """Per share: the figure, the metrics, and the error of each held-out sample."""

    title: str
    value: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, Array] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    """Share → what was asked for and stayed float, as `2 of 17`."""
    note: str = ""
    exact: dict[str, float] = field(default_factory=dict)
    """What float has."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        errors = {share: list(map(float, found)) for share, found in self.errors.items()}
        return asdict(self) | {"errors": errors}

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Curve:
        """Return what `to_json` made."""
        errors = {share: np.array(found) for share, found in kept["errors"].items()}
        return cls(**{**kept, "errors": errors})


class Verdict:
    """Says whether a curve differs from another beyond the noise: 95 % of paired resamples."""

    def __init__(self, samples: int) -> None:
        generator = np.random.default_rng(0)
        self._draws = generator.multinomial(samples, np.full(samples, 1 / samples), _DRAWS)

    def mark(self, errors: Array, best: Array) -> str:
        """Return ▲ where `errors` are larger than `best`, ▼ where they are smaller, else ≈."""
        differences = self._draws @ (errors - best)
        low, high = np.percentile(differences, [2.5, 97.5])
        return "▲" if low > 0 else "▼" if high < 0 else "≈"


def table(
    figure: Figure, verdict: Verdict, curves: Sequence[Curve], best: Curve, shares: Sequence[str]
) -> str:
    """Return the figure per share; `best`, in bold, is what each other is compared with."""
    lines = [
        f"| | {' | '.join(f'{share} %' for share in shares)} |",
        f"|---|{'---:|' * len(shares)}",
    ]
    for curve in curves:
        cells = []
        for share in shares:
            if share not in curve.value:
                cells.append("–")
                continue
            text = figure.form.format(curve.value[share])
            mark = verdict.mark(curve.errors[share], best.errors[share])
            note = f" ({curve.left[share]})" if share in curve.left else ""
            cells.append(f"**{text}**{note}" if curve is best else f"{text} {mark}{note}")
        lines.append(f"| {curve.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(figure: Figure, parts: Mapping[str, Sequence[Curve]]) -> str:
    """Return one chart for each part, side by side, as SVG; the first line of each is thick."""
    charts = [_chart(figure, title, curves) for title, curves in parts.items()]
    apart = {"scale": {"color": "independent", "strokeWidth": "independent"}}
    # a reader's font may be wider than the one that is measured here
    room = {"left": 8, "top": 8, "right": 48, "bottom": 8}
    spec = {"hconcat": charts, "resolve": apart, "background": "white", "spacing": 56}
    spec["padding"] = room
    return str(vl_convert.vegalite_to_svg(spec))


def _chart(figure: Figure, title: str, curves: Sequence[Curve]) -> dict[str, Any]:
    rows = [
        {"who": curve.title, "share": int(share), "value": value}
        for curve in curves
        for share, value in curve.value.items()
    ]
    names = [curve.title for curve in curves]
    legend = {"labelLimit": 260, "symbolType": "stroke", "symbolSize": 300}
    named = {"type": "ordinal", "domain": names}
    colors = named | {"range": [_BLACK, *_COLORS][: len(names)]}
    widths = named | {"range": [3.5] + [1.5] * (len(names) - 1)}
    y = {"field": "value", "type": "quantitative", "title": figure.title}
    if figure.log:
        tens = np.log10([row["value"] for row in rows if row["value"] > 0])
        decades = range(int(np.floor(tens.min())), int(np.ceil(tens.max())) + 1)
        ticks = {"values": [10.0**power for power in decades], "format": ".0e"}
        y |= {"scale": {"type": "log"}, "axis": ticks}
    else:
        y |= {"scale": {"zero": False}}
    x = {
        "field": "share",
        "type": "quantitative",
        "scale": {"domain": [20, 100]},
        "axis": {"values": list(map(int, SHARES))},
        "title": "share quantized, %",
    }
    who = {"field": "who", "type": "nominal", "title": None}
    return {
        "title": title,
        "width": 330,
        "height": 260,
        "data": {"values": rows},
        "mark": {"type": "line", "point": {"size": 28}},
        "encoding": {
            "x": x,
            "y": y,
            "color": who | {"scale": colors, "legend": legend},
            "strokeWidth": who | {"scale": widths, "legend": legend},
        },
    }


_BLACK = "#111111"
_COLORS = (
    *("#4c78a8", "#72b7b2", "#54a24b", "#e45756"),
    *("#f58518", "#eeca3b", "#b279a2", "#9d755d"),
)

"""Curves of a figure over the share quantized: judged sample by sample, as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
            text = figure.form.format(curve.value[share])
            mark = verdict.mark(curve.errors[share], best.errors[share])
            note = f" ({curve.left[share]})" if share in curve.left else ""
            cells.append(f"**{text}**{note}" if curve is best else f"{text} {mark}{note}")
        lines.append(f"| {curve.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(figure: Figure, parts: Mapping[str, Sequence[Curve]]) -> str:
    """Return one chart for each part, side by side, as SVG."""
    rows = [
        {"part": part, "who": curve.title, "share": int(share), "value": value}
        for part, curves in parts.items()
        for curve in curves
        for share, value in curve.value.items()
    ]
    scale = {"type": "log"} if figure.log else {"zero": False}
    charts = [
        {
            "title": part,
            "width": 330,
            "height": 260,
            "transform": [{"filter": {"field": "part", "equal": part}}],
            "mark": {"type": "line", "point": True},
            "encoding": {
                "x": {"field": "share", "type": "quantitative", "title": "share quantized, %"},
                "y": {
                    "field": "value",
                    "type": "quantitative",
                    "scale": scale,
                    "title": figure.title,
                },
                "color": {
                    "field": "who",
                    "type": "nominal",
                    "title": None,
                    "legend": {"labelLimit": 260},
                },
            },
        }
        for part in parts
    ]
    apart = {"scale": {"color": "independent"}}
    spec = {"data": {"values": rows}, "hconcat": charts, "resolve": apart}
    return str(vl_convert.vegalite_to_svg(spec))

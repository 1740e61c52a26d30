"""The charts of the report, as plotly figures: numbers in, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import plotly.graph_objects as go

from evaluation.metrics import quality_key
from evaluation.results import Evaluation
from quantize.profiles import Profiles
from sensitivity.report import NodeScore, Sensitivity

_ACCENT = "#2563eb"
_SECOND = "#d97706"
_PALETTE = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#64748b")
_DECADES = {"type": "log", "dtick": 1, "exponentformat": "power"}


def quality_of(evaluation: Evaluation) -> str:
    """Return the metric that says most about the task."""
    return quality_key(evaluation.variants[0].metrics)


def frontier(evaluation: Evaluation, profiles: Profiles) -> go.Figure:
    """Return quality against the share of candidates' MACs in INT8, one point per variant."""
    shares = {item.name: item.fraction.macs for item in profiles.profiles if item.fraction}
    key = quality_of(evaluation)
    points = [
        (100 * shares.get(item.name, 0.0), item.metrics[key], item.name)
        for item in evaluation.variants
        if key in item.metrics
    ]
    x, y, names = zip(*sorted(points), strict=True)
    line = go.Scatter(
        x=x,
        y=y,
        text=names,
        mode="lines+markers+text",
        # the first two lie close together
        textposition=["bottom center", *["top center"] * (len(x) - 1)],
        line={"color": _ACCENT, "width": 2},
        marker={"size": 11},
        hovertemplate="%{text}: %{x:.0f} % INT8, " + key + " %{y:.5g}<extra></extra>",
        cliponaxis=False,
    )
    return _styled(go.Figure(line), "share of candidates' MACs in INT8 (%)", _label(key))


def predicted_against_measured(evaluation: Evaluation) -> go.Figure | None:
    """Return measured against predicted MSE, with the line where they are equal."""
    points = [
        (item.predicted["mse"], item.metrics["mse"], item.name)
        for item in evaluation.variants
        if "mse" in item.predicted and item.metrics.get("mse")
    ]
    if not points:
        return None
    x, y, names = zip(*points, strict=True)
    ends = [min(*x, *y), max(*x, *y)]
    equal = go.Scatter(x=ends, y=ends, mode="lines", line={"dash": "dot", "color": _SECOND})
    dots = go.Scatter(
        x=x,
        y=y,
        text=names,
        mode="markers+text",
        textposition="top center",
        marker={"size": 11, "color": _ACCENT},
        hovertemplate="%{text}: predicted %{x:.3g}, measured %{y:.3g}<extra></extra>",
        cliponaxis=False,
    )
    figure = _styled(go.Figure([equal, dots]), "predicted MSE (sum of single errors)", "measured")
    figure.update_xaxes(**_DECADES)
    figure.update_yaxes(**_DECADES)
    return figure


def sensitivity_bars(report: Sensitivity) -> go.Figure:
    """Return one bar per node in graph order, coloured by kind of layer; log scale."""
    labels = _labels(report.nodes)
    traces = [
        go.Bar(
            x=[labels[node.name] for node in nodes],
            y=[_error(node) for node in nodes],
            name=kind,
            marker={"color": _PALETTE[index % len(_PALETTE)]},
            customdata=[[node.name, node.rank] for node in nodes],
            hovertemplate="%{customdata[0]}<br>rank %{customdata[1]}, MSE %{y:.3e}<extra></extra>",
        )
        for index, (kind, nodes) in enumerate(_by_kind(report.nodes).items())
    ]
    figure = _styled(go.Figure(traces), "", "error of this node alone (MSE)")
    order = list(labels.values())
    figure.update_xaxes(
        categoryorder="array", categoryarray=order, tickfont={"size": 9}, tickangle=-60
    )
    figure.update_yaxes(**_DECADES)
    figure.update_layout(
        showlegend=True,
        barmode="overlay",
        height=460,
        margin={"t": 90},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    return figure


def _by_kind(nodes: Sequence[NodeScore]) -> dict[str, list[NodeScore]]:
    kinds: dict[str, list[NodeScore]] = {}
    for node in nodes:
        kinds.setdefault(kind_of(node), []).append(node)
    return kinds


def kind_of(node: NodeScore) -> str:
    """Return the last part of the module path (`down_proj`), or the operator."""
    return node.scope.rpartition(".")[2] or node.op_type


def _error(node: NodeScore) -> float | None:
    if node.solo is not None:
        return node.solo.mse or None
    gain = node.leave_one_out.gain if node.leave_one_out else None
    return gain if gain and gain > 0 else None


def _labels(nodes: Sequence[NodeScore]) -> dict[str, str]:
    """Return node name → label, the whole name where a short one would stand for two."""
    short = {node.name: _short(node.name) for node in nodes}
    counts = Counter(short.values())
    return {name: label if counts[label] == 1 else name for name, label in short.items()}


def _short(name: str) -> str:
    """Return a node's name without what nearly all share at its ends."""
    parts = [
        part for part in name.split("/") if part not in ("", "model", "MatMul", "Gemm", "Conv")
    ]
    return ".".join(parts).replace("layers.", "") or name


def _label(key: str) -> str:
    return {"loss": "loss (nats per token)", "mse": "MSE"}.get(key, key)


def _styled(figure: go.Figure, x: str, y: str) -> go.Figure:
    figure.update_layout(
        template="none",
        showlegend=False,
        height=360,
        margin={"l": 70, "r": 25, "t": 30, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": "#808692", "size": 13},
    )
    grid = {"gridcolor": "rgba(128,134,146,0.22)", "zeroline": False, "automargin": True}
    figure.update_xaxes(title=x, **grid)
    figure.update_yaxes(title=y, **grid)
    return figure

"""The report as a Markdown table, for pull requests and for reading without qgraph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qgraph._graph.printable import printable
from qgraph._metrics import metric
from qgraph._sensitivity.beside_scores import Estimate
from qgraph._sensitivity.explain.schemes import damages, scheme_names, summary
from qgraph._sensitivity.ranking.node_figures import node_figures
from qgraph._sensitivity.report import KeptNode, NodeScore, Score, Sensitivity


def to_markdown(report: Sensitivity) -> str:
    """Return the ranking, most sensitive first, then what was kept float."""
    run = report.run
    inc = " INC solo | INC left out |" * (report.inc is not None)
    own = _own_column(report)
    name = metric(report.metric).damage_name
    first = f"rank | node | {name}" if own else "rank | node"
    lines = [
        f"# Sensitivity of {cell(report.model.path)}",
        "",
        f"Model {report.model.sha256[:16]}…, scheme {report.scheme}, engine {run.engine}, "
        f"provider {run.provider}, {run.samples} samples of {cell(run.data)}.",
        "",
        *([found, ""] if (found := report.found()) is not None else []),
        *(["**The data was made up: the ranking is only a rough guide.**", ""] * run.synthetic),
        *(line for text in run.warnings or () for line in (f"**Warning: {cell(text)}**", "")),
        *(line for text in about_estimates(report) for line in (text, "")),
        _baseline(report),
        *_about_inc(report),
        "",
        f"| {first} | solo MSE | SQNR dB | gain if left out: {name} | MACs | params | group |{inc}",
        f"|---:|---|{'---:|' * (5 + own)}---|{'---:|---:|' * bool(inc)}",
        *(_row(node, report) for node in sorted(report.nodes, key=lambda node: node.rank)),
        *_side_by_side(report),
        *_causes(report),
        "",
        "| kept float | MACs | reason |",
        "|---|---:|---|",
        *(_kept(keep) for keep in report.keep),
        *_unscored(report),
    ]
    return "\n".join(lines) + "\n"


def about_estimates(report: Sensitivity) -> list[str]:
    """Return what to know of scores that are estimated: of nodes alone, and left out."""
    estimate = report.run.estimate
    if estimate is None:
        return []
    line = f"Scores are estimated; {len(estimate.measured)} nodes are measured exactly, alone"
    if (verified := estimate.verified) is not None:
        line += (
            f". At {verified.nodes} that have both, ranks correlate by {verified.spearman:.3f},"
            f" and the median of estimate to exact score is {verified.ratio:.2f}"
        )
    if not report.run.direction.has_leave_one_out:
        return [f"{line}."]
    return [f"{line}.", f"Gains if left out are {_about_gains(estimate, len(report.nodes))}."]


def _about_gains(estimate: Estimate, nodes: int) -> str:
    if (exact := len(estimate.measured_left_out)) == nodes:
        return "measured"
    known = "measured" if estimate.baseline_measured else "estimated"
    found = f"estimated, from the {known} error of all, and a rough guide at best"
    if estimate.spearman_left_out is None:
        some = f", but for {exact} that are measured" if exact else ""
        return f"{found}{some}: they were not checked"
    return (
        f"{found}: at {exact} that are measured too, ranks correlate by"
        f" {estimate.spearman_left_out:.2f}"
    )


def _about_inc(report: Sensitivity) -> list[str]:
    if report.inc is None:
        return []
    inc, total = report.inc, report.baseline.all_quantized.inc if report.baseline else None
    own = f" INC's own score with all quantized: {total.mse:.3e}." if total else ""
    return [
        "",
        f"Intel Neural Compressor {inc.version}, weights {inc.weights}, activations"
        f" {inc.activations}, {inc.confidence_batches} batches scored. INC's own scores are its"
        f" unweighted mean over all outputs.{own}",
    ]


def _side_by_side(report: Sensitivity) -> list[str]:
    names = scheme_names(report)
    if not names:
        return []
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    rows = [
        f"| {node.rank} | {code(node.name)} | {' | '.join(map(_figure, damages(node, report)))} |"
        for node in nodes
    ]
    return [
        "",
        f"Schemes side by side, {metric(report.metric).damage_name} of each node alone:",
        "",
        *(f"- {line}" for line in summary(report)),
        "",
        f"| rank | node | {' | '.join(names)} |",
        f"|---:|---|{'---:|' * len(names)}",
        *rows,
    ]


_EXPLAINED = 10


def _causes(report: Sensitivity) -> list[str]:
    nodes = [node for node in sorted(report.nodes, key=lambda node: node.rank) if node.cause]
    if not nodes:
        return []
    rows = [
        f"| {node.rank} | {code(node.name)} | {cell(node.cause.why)} | {cell(node.cause.remedy)} |"
        for node in nodes[:_EXPLAINED]
        if node.cause
    ]
    return [
        "",
        "| rank | node | why it is sensitive | what may help |",
        "|---:|---|---|---|",
        *rows,
    ]


def _unscored(report: Sensitivity) -> list[str]:
    if not report.unscored:
        return []
    return ["", "| no score | MACs | reason |", "|---|---:|---|", *map(_kept, report.unscored)]


def _kept(node: KeptNode) -> str:
    macs = "" if node.macs is None else f"{node.macs:,}"
    return f"| {code(node.name)} | {macs} | {cell(node.reason)} |"


def _baseline(report: Sensitivity) -> str:
    if report.baseline is None:
        return "**Nothing was scored at the outputs: ranks are by each node's own output.**"
    estimate = report.run.estimate
    how = "" if estimate is None or estimate.baseline_measured else " (estimated)"
    return f"All candidates quantized: {_figures(report.baseline.all_quantized)}{how}."


def _row(node: NodeScore, report: Sensitivity) -> str:
    solo, without, shown = node.solo, node.leave_one_out, node_figures(node, report)
    cells = [
        str(node.rank),
        code(node.name),
        *([_figure(shown.damage)] * _own_column(report)),
        f"{solo.mse:.3e}" if solo else "",
        f"{solo.sqnr_db:.1f}" if solo and solo.sqnr_db is not None else "",
        "" if shown.gain is None else f"{shown.gain:+.3e}",
        f"{node.macs:,}",
        f"{node.params:,}",
        code(node.group) if node.group else "",
    ]
    if report.inc is not None:
        cells += [f"{s.inc.mse:.3e}" if s and s.inc else "" for s in (solo, without)]
    return f"| {' | '.join(cells)} |"


def _own_column(report: Sensitivity) -> bool:
    """Return whether the ranking goes by a metric that has no column of its own already."""
    return report.metric not in ("mse", "sqnr_db")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3e}"


def _figures(score: Score) -> str:
    parts = [f"MSE {score.mse:.3e}"]
    parts += [f"SQNR {score.sqnr_db:.1f} dB"] if score.sqnr_db is not None else []
    parts += [f"KL {score.kl:.3e} nats"] if score.kl is not None else []
    return ", ".join(parts)


def table(head: Sequence[str], body: Iterable[Sequence[str]], align: str = "---:") -> list[str]:
    """Return the lines of a table of any text; all columns but the first are aligned by `align`."""
    lines = [f"| {' | '.join(map(cell, row))} |" for row in (head, *body)]
    return [lines[0], f"|---|{f'{align}|' * (len(head) - 1)}", *lines[1:]]


def cell(text: str) -> str:
    """Return `text` so that it cannot break out of a table cell or a line, nor be read as HTML, as
    a link or as a picture.
    """
    return _in_a_line(text).replace("<", "&lt;").replace("](", "]\\(")


def code(text: str) -> str:
    """Return `text` as code that cannot break out of a table cell."""
    return f"`{_in_a_line(text).replace('`', chr(39))}`"


def _in_a_line(text: str) -> str:
    return printable(" ".join(text.splitlines())).replace("|", "\\|")

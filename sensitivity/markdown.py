"""The report as a Markdown table, for pull requests and for reading without qgraph."""

from __future__ import annotations

from sensitivity.report import NodeScore, Score, Sensitivity


def to_markdown(report: Sensitivity) -> str:
    """Return the ranking, most sensitive first, then what was kept float."""
    run = report.run
    lines = [
        f"# Sensitivity of {cell(report.model.path)}",
        "",
        f"Model {report.model.sha256[:16]}…, scheme {report.scheme}, engine {run.engine}, "
        f"provider {run.provider}, {run.samples} samples of {cell(run.data)}.",
        "",
        *(["**The data was made up: the ranking is only a rough guide.**", ""] * run.synthetic),
        f"All candidates quantized: {_figures(report.baseline.all_quantized)}.",
        "",
        "| rank | node | solo MSE | SQNR dB | gain if left out | MACs | params | group |",
        "|---:|---|---:|---:|---:|---:|---:|---|",
        *(_row(node) for node in sorted(report.nodes, key=lambda node: node.rank)),
        "",
        "| kept float | reason |",
        "|---|---|",
        *(f"| {code(keep.name)} | {cell(keep.reason)} |" for keep in report.keep),
    ]
    return "\n".join(lines) + "\n"


def _row(node: NodeScore) -> str:
    solo, without = node.solo, node.leave_one_out
    cells = [
        str(node.rank),
        code(node.name),
        f"{solo.mse:.3e}" if solo else "",
        f"{solo.sqnr_db:.1f}" if solo and solo.sqnr_db is not None else "",
        f"{without.gain:+.3e}" if without and without.gain is not None else "",
        f"{node.macs:,}",
        f"{node.params:,}",
        code(node.group) if node.group else "",
    ]
    return f"| {' | '.join(cells)} |"


def _figures(score: Score) -> str:
    parts = [f"MSE {score.mse:.3e}"]
    parts += [f"SQNR {score.sqnr_db:.1f} dB"] if score.sqnr_db is not None else []
    parts += [f"KL {score.kl:.3e} nats"] if score.kl is not None else []
    return ", ".join(parts)


def cell(text: str) -> str:
    """Return `text` so that it cannot break out of a table cell or a line."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def code(text: str) -> str:
    """Return `text` as code that cannot break out of a table cell."""
    return f"`{cell(text).replace('`', chr(39))}`"

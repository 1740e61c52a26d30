"""What `qgraph sensitivity` prints of a report, and what it warns of."""

from __future__ import annotations

from pathlib import Path

from qgraph._cli.console import print_table, say, warn
from qgraph._metrics import metric
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.report import NodeScore, Sensitivity

_SHOWN = 3
_EXPLAINED = 5


def warn_of(report: Sensitivity, ranges: Ranges | None) -> None:
    """Say what a person should know before trusting the scores."""
    if ranges is not None and (note := ranges.note()):
        warn(note)
    for text in report.run.warnings or ():
        warn(text)
    if not report.run.complete:
        warn(_unfinished(report))
    if (used := report.run.memory) is not None and used.peak > used.budget:
        warn(
            f"the process held {used.peak >> 20} MiB at its peak, more than the budget of"
            f" {used.budget >> 20} MiB: a sample or its states take more than was estimated."
        )
    if report.run.synthetic:
        warn(
            "no data was given: these scores come from made-up samples and are only a rough guide."
            " Give --data."
        )


def _unfinished(report: Sensitivity) -> str:
    if report.unscored:
        done = f"{len(report.unscored)} candidates have no score"
    else:
        done = f"the time budget ended after {report.run.samples} samples"
    return f"{done}; the same command, given more, goes on from there."


def print_report(report: Sensitivity, output: Path) -> None:
    """Print the ranking, what has no score and why, and what makes the first sensitive."""
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    own = report.metric if report.metric not in ("mse", "sqnr_db") else None
    headings = ["node", "rank", "solo MSE", "SQNR dB", "gain if left out", "M MACs"]
    if own is not None:
        headings.insert(2, metric(own).label)
    print_table(headings, [_row(node, own) for node in nodes])
    run = report.run
    say(
        f"{len(nodes)} nodes scored, {len(report.keep)} kept float, by {run.engine} on"
        f" {run.provider} in {run.seconds:.1f} s ({run.forward_equivalents:.0f} forwards)."
    )
    for reason, names in _by_reason(report).items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        say(f"No score, {reason}: {', '.join(names[:_SHOWN])}{more}")
    explained = [node for node in nodes if node.cause is not None][:_EXPLAINED]
    if explained:
        say("Why the first are sensitive, and what may help:")
    for node in explained:
        if node.cause is not None:
            say(f"  {node.rank}. {node.name}: {node.cause.why}. Try: {node.cause.remedy}.")
    say(f"Wrote {output}")


def _by_reason(report: Sensitivity) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for node in report.unscored:
        reasons.setdefault(node.reason, []).append(node.name)
    return reasons


def _row(node: NodeScore, own: str | None) -> list[str]:
    solo, without = node.solo, node.leave_one_out
    figure = solo.figures.get(own) if solo and own else None
    return [
        node.name,
        str(node.rank),
        *([] if own is None else ["" if figure is None else metric(own).form.format(figure)]),
        f"{solo.mse:.3e}" if solo else "",
        f"{solo.sqnr_db:.1f}" if solo and solo.sqnr_db is not None else "",
        f"{without.gain:+.2e}" if without and without.gain is not None else "",
        f"{node.macs / 1e6:.2f}",
    ]

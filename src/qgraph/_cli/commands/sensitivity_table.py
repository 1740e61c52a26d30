"""What `qgraph sensitivity` prints of a report, and what it warns of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from qgraph._cli.console import OUT, elided, print_table, say, warn, wrote
from qgraph._metrics import metric
from qgraph._quantize.ranges import Ranges
from qgraph._report.advice import HARMLESS
from qgraph._sensitivity.explain.markdown import about_estimates
from qgraph._sensitivity.explain.schemes import summary
from qgraph._sensitivity.ranking.node_figures import node_figures
from qgraph._sensitivity.report import KeptNode, NodeScore, Sensitivity

_SHOWN = 3
_GAINLESS = "gains nothing"
_EXPLAINED = 5
_WORST = 15
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


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
            "no data was given: these scores come from made-up samples (random floats and ids"
            " of embeddings, ones for other integers) and are only a rough guide. Give --data."
        )


def _unfinished(report: Sensitivity) -> str:
    if report.unscored:
        done = f"{len(report.unscored)} candidates have no score"
    elif report.run.samples == 0:
        done = (
            "the time budget ended before one sample was scored, so the ranks are a guess, by the"
            " error at each node's own output"
        )
    else:
        done = f"the time budget ended after {report.run.samples} samples"
    return f"{done}; the same command with more time continues."


def print_report(report: Sensitivity, written: Sequence[Path], *, everything: bool) -> None:
    """Print the most sensitive nodes, or `everything`; what has no score and why; what makes the
    first sensitive, where they are; and which files were written.
    """
    nodes = sorted(report.nodes, key=lambda node: node.rank)
    own = report.metric if report.metric not in ("mse", "sqnr_db") else None
    name = metric(report.metric).damage_name
    headings = ["node", "rank", "solo MSE", "SQNR dB", f"gain if left out: {name}", "M MACs"]
    if own is not None:
        headings.insert(2, name)
    shown = nodes if everything else nodes[:_WORST]
    rows = [_row(node, report, own, everything=everything) for node in shown]
    print_table(headings, rows, spare=["M MACs"])
    if len(shown) < len(nodes):
        say(f"and {len(nodes) - len(shown)} more, less sensitive; --all shows them.")
    for line in summary(report):
        say(line)
    run = report.run
    more = " (the data holds more: --samples)" if run.more_samples else ""
    before = "" if run.ranges_seconds is None else f", ranges before in {run.ranges_seconds:.1f} s"
    say(
        f"{len(nodes)} nodes scored on {run.samples} samples{more}, {len(report.keep)} kept float,"
        f" by {run.engine} on {run.provider} in {run.seconds:.1f} s{before}."
    )
    if (found := report.found()) is not None:
        say(found)
    if run.unseen:
        say("Each sample was scored with ranges of the other samples, as new data will be.")
    for line in about_estimates(report):
        say(line)
    _by_reason("Kept float", report.keep)
    _by_reason("No score", report.unscored)
    lowest = _lowest_sqnr(report)
    if lowest is not None and lowest >= HARMLESS:
        say(f"No node hurts when quantized alone: the lowest SQNR is {lowest:.1f} dB.")
    else:
        _explain(nodes)
    say(wrote(written))


def _lowest_sqnr(report: Sensitivity) -> float | None:
    """Return the worst node's SQNR, dB, by the metric that ranks; None where that says no such."""
    seen = [node.solo for node in report.nodes if node.solo is not None]
    if report.metric == "noise_to_signal":
        worst = max((score.noise_to_signal or 0.0 for score in seen), default=0.0)
        return -10 * math.log10(worst) if worst > 0 else None
    if report.metric not in ("mse", "sqnr_db"):
        return None
    return min((score.sqnr_db for score in seen if score.sqnr_db is not None), default=None)


def _explain(nodes: Sequence[NodeScore]) -> None:
    """Say why the first are sensitive; a reason that several share, but for its figures, is given
    once.
    """
    reasons: dict[str, list[tuple[NodeScore, str]]] = {}
    for node in [node for node in nodes if node.cause is not None][:_EXPLAINED]:
        if node.cause is not None:
            said = f"{node.cause.why}. Try: {node.cause.remedy}."
            reasons.setdefault(_NUMBER.sub("#", said), []).append((node, said))
    if reasons:
        say("Why the first are sensitive, and what may help:")
    for alike in reasons.values():
        names = ", ".join(f"{node.rank}. {node.name}" for node, _ in alike)
        say(f"  {names}: {_merged([said for _, said in alike])}")


def _merged(sentences: Sequence[str]) -> str:
    """Return one sentence for several that differ in their numbers alone: 50–74%."""
    numbers = zip(*(_NUMBER.findall(text) for text in sentences), strict=True)
    spans = iter([sorted(set(found), key=float) for found in numbers])

    def span(_: re.Match[str]) -> str:
        found = next(spans)
        return found[0] if len(found) == 1 else f"{found[0]}–{found[-1]}"

    return _NUMBER.sub(span, sentences[0])


def _by_reason(what: str, nodes: Sequence[KeptNode]) -> None:
    """Say of which nodes this holds, a line for each of the commonest reasons. What gains nothing
    comes after others that are as common, and is one reason whatever its numbers are.
    """
    reasons: dict[str, list[KeptNode]] = {}
    for node in nodes:
        said = _NUMBER.sub("#", node.reason) if _GAINLESS in node.reason else node.reason
        reasons.setdefault(said, []).append(node)
    ordered = sorted(reasons.values(), key=lambda of: (-len(of), _GAINLESS in of[0].reason))
    for alike in ordered[:_SHOWN]:
        reason, names = _merged([node.reason for node in alike]), [node.name for node in alike]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        say(f"{what}, {reason}: {', '.join(names[:_SHOWN])}{more}")
    if left := sum(map(len, ordered[_SHOWN:])):
        say(f"{what} for other reasons: {left}, listed in the report.")


def _named(node: NodeScore) -> str:
    """Return the node's name, and its module's path where an exporter did not put that in it."""
    told = not node.scope or node.scope in node.name.replace("/", ".")
    return node.name if told else f"{node.name} ({node.scope})"


def _row(node: NodeScore, report: Sensitivity, own: str | None, *, everything: bool) -> list[str]:
    solo, shown = node.solo, node_figures(node, report)
    return [
        _named(node) if everything else elided(_named(node), max(24, OUT.width // 3)),
        str(node.rank),
        *([] if own is None else ["" if shown.damage is None else f"{shown.damage:.3e}"]),
        f"{solo.mse:.3e}" if solo else "",
        f"{solo.sqnr_db:.1f}" if solo and solo.sqnr_db is not None else "",
        "" if shown.gain is None else f"{shown.gain:+.2e}",
        f"{node.macs / 1e6:.2f}",
    ]

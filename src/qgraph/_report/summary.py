"""The report of a run as Markdown, for pull requests."""

from __future__ import annotations

from collections.abc import Iterator

from qgraph._evaluation.results import Prompted
from qgraph._report.engine_times import engine_notes
from qgraph._report.figures import measured_mse
from qgraph._report.markdown import to_markdown
from qgraph._report.notes import sanity_line
from qgraph._report.reported_run import ReportedRun
from qgraph._report.verdicts import verdicts
from qgraph._sensitivity.explain.markdown import cell, code
from qgraph._sensitivity.report import NodeScore

_WORST = 10


def render_summary(run: ReportedRun) -> str:
    """Return the variants, what they mean, the answers, the profiles and the worst nodes."""
    evaluation, report = run.evaluation, run.report
    worst = sorted(report.nodes, key=lambda node: node.rank)[:_WORST]
    lines = [
        f"# {cell(evaluation.model.path)}: {report.scheme}",
        "",
        *(f"- {cell(line)}" for line in verdicts(evaluation)),
        "",
        to_markdown(evaluation),
        *(f"{cell(line)}\n" for line in engine_notes(run.engines)),
        *_answers(run),
        "| profile | nodes | MACs | params | predicted MSE | measured |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {cell(item.name)} {cell(item.title)} | {item.fraction.nodes:.0%} "
            f"| {item.fraction.macs:.0%} | {item.fraction.params:.0%} | {item.predicted.mse:.2e} "
            f"| {measured_mse(evaluation, item)} |"
            for item in run.profiles.profiles
            if item.fraction and item.predicted
        ),
        "",
        "Most sensitive nodes:",
        "",
        *map(_node, worst),
        *_rankings(run),
        "",
        f"Model `{evaluation.model.sha256[:16]}`, qgraph {evaluation.run.qgraph},"
        f" {evaluation.run.samples} samples of {cell(', '.join(evaluation.run.data))}.",
    ]
    return "\n".join(lines) + "\n"


def _node(node: NodeScore) -> str:
    error = f", MSE alone {node.solo.mse:.2e}" if node.solo else ""
    return f"{node.rank}. {code(node.name)}{error}"


def _answers(run: ReportedRun) -> Iterator[str]:
    if not run.evaluation.sanity:
        return
    names = [variant.name for variant in run.evaluation.variants]
    yield sanity_line(run.evaluation).removesuffix(" The report shows them.")
    yield ""
    yield "<details><summary>All answers</summary>"
    yield ""
    yield f"| prompt | {' | '.join(map(cell, names))} |"
    yield f"|---|{'---|' * len(names)}"
    for prompt in run.evaluation.sanity:
        yield f"| {cell(prompt.text)} | {' | '.join(map(cell, _said(prompt)))} |"
    yield ""
    yield "</details>"
    yield ""


def _said(prompt: Prompted) -> list[str]:
    first, *others = prompt.answers
    return [
        first.agreed.strip(),
        *(
            "the same"
            if answer.diverges_at is None
            else f"from token {answer.diverges_at + 1}: {(answer.token + answer.rest).strip()}"
            for answer in others
        ),
    ]


def _rankings(run: ReportedRun) -> Iterator[str]:
    for pair in run.pairs:
        if pair.spearman is not None:
            yield ""
            yield (
                f"{cell(pair.a)} and {cell(pair.b)} rank {pair.common} nodes with Spearman"
                f" {pair.spearman:.3f}, and share {pair.top_overlap:.0%} of the top {pair.top}."
            )

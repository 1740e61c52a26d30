"""An evaluation, and the report of a run, as Markdown for pull requests."""

from __future__ import annotations

from collections.abc import Iterable

from qgraph._evaluation.results import Evaluation, SanityAnswer
from qgraph._metrics import metric
from qgraph._report.advice import advice
from qgraph._report.engine_times import engine_notes
from qgraph._report.reported_run import ReportedRun
from qgraph._report.sentences import latency_notes, notes, sanity_line, verdicts
from qgraph._report.variant_tables import columns, measured_mse, rows, topics
from qgraph._sensitivity.explain.markdown import cell, code, table
from qgraph._sensitivity.ranking.node_figures import node_figures
from qgraph._sensitivity.report import NodeScore, Sensitivity

_WORST = 10
_SHARES = ["profile", "nodes", "MACs", "params", "predicted MSE", "measured"]


def render_summary(run: ReportedRun) -> str:
    """Return the variants, what they mean, the answers, the profiles and the worst nodes."""
    evaluation, report = run.evaluation, run.report
    worst = sorted(report.nodes, key=lambda node: node.rank)[:_WORST]
    lines = [
        f"# {cell(evaluation.model.path)}: {report.scheme}",
        "",
        *([found, ""] if (found := report.found()) is not None else []),
        *_advice(evaluation),
        *(f"- {cell(line)}" for line in verdicts(evaluation)),
        "",
        to_markdown(evaluation),
        *(f"{cell(line)}\n" for line in engine_notes(run.engines)),
        *_answers(evaluation),
        *table(_SHARES, _profiles(run)),
        "",
        "Most sensitive nodes:",
        "",
        *(_node(node, report) for node in worst),
        *_rankings(run),
        "",
        f"Model `{evaluation.model.sha256[:16]}`, qgraph {evaluation.run.qgraph},"
        f" {evaluation.run.samples} samples of {cell(', '.join(evaluation.run.data))}.",
    ]
    return "\n".join(lines) + "\n"


def _advice(evaluation: Evaluation) -> list[str]:
    first, *others = [cell(line) for line in advice(evaluation)] or [""]
    return [f"**{first}** {' '.join(others)}", ""] if first else []


def to_markdown(evaluation: Evaluation) -> str:
    """Return the table, what the figures do and do not say, and the others, folded."""
    names = [item.name for item in evaluation.variants]
    figures = [
        line
        for title, found in topics(evaluation)
        for line in (*table([title, *names], [[name, *cells] for name, cells in found]), "")
    ]
    return "\n".join(
        [
            *table(columns(evaluation), rows(evaluation)),
            "",
            *(line for note in notes(evaluation) for line in (cell(note), "")),
            *_folded("All figures", [*figures, *map(cell, latency_notes(evaluation)), ""]),
        ]
    )


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    """Return lines that GitHub and GitLab fold away."""
    return [f"<details><summary>{title}</summary>", "", *lines, "</details>", ""]


def _profiles(run: ReportedRun) -> list[list[str]]:
    return [
        [
            f"{item.name} {item.title}",
            *(f"{share:.0%}" for share in (part.nodes, part.macs, part.params)),
            f"{item.predicted.mse:.2e}",
            measured_mse(run.evaluation, item),
        ]
        for item in run.profiles.profiles
        if (part := item.fraction) and item.predicted
    ]


def _node(node: NodeScore, report: Sensitivity) -> str:
    name, damage = metric(report.metric).damage_name, node_figures(node, report).damage
    error = "" if damage is None else f", {name} alone {damage:.2e}"
    return f"{node.rank}. {code(node.name)}{error}"


def _answers(evaluation: Evaluation) -> list[str]:
    if not evaluation.sanity:
        return []
    head = ["prompt", *(variant.name for variant in evaluation.variants)]
    body = [
        [prompt.text, prompt.answers[0].agreed.strip(), *map(_said, prompt.answers[1:])]
        for prompt in evaluation.sanity
    ]
    answers = _folded("All answers", [*table(head, body, "---"), ""])
    return [sanity_line(evaluation), "", *answers]


def _said(answer: SanityAnswer) -> str:
    if answer.diverges_at is None:
        return "the same"
    return f"from token {answer.diverges_at + 1}: {(answer.token + answer.rest).strip()}"


def _rankings(run: ReportedRun) -> list[str]:
    return [
        f"\n{cell(pair.a)} and {cell(pair.b)} rank {pair.common} nodes with Spearman"
        f" {pair.spearman:.3f}, and share {pair.top_overlap:.0%} of the top {pair.top}."
        for pair in run.pairs
        if pair.spearman is not None
    ]

"""`qgraph compare` of two evaluations or run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qgraph._cli.console import print_json, print_table, say
from qgraph._cli.outputs import require_outputs
from qgraph._evaluation.changes import Changes
from qgraph._evaluation.comparing import against_float
from qgraph._evaluation.gates import FailWhen, judged, parse_gate, require_passed
from qgraph._evaluation.results import Evaluation
from qgraph._graph.errors import QualityGateError, UsageError
from qgraph._graph.io.documents import read_json, write_document
from qgraph._graph.io.files import write_text
from qgraph._report.change_tables import (
    HEADINGS,
    SETTINGS,
    change_rows,
    changes_markdown,
    notes,
    setting_rows,
)
from qgraph._steps import compare as rankings
from qgraph._steps.inputs import document

_SHOWN = 3


def is_evaluation(path: Path) -> bool:
    """Return whether this is a run folder or an evaluation, and no ranking."""
    if path.is_dir():
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and content.get("schema") == Evaluation.SCHEMA


def compare_runs(
    texts: Sequence[str],
    gates: Sequence[str],
    output: Path | None,
    *,
    when: FailWhen,
    pairs: Sequence[str],
    as_json: bool,
) -> int:
    """Print what changed from the first to the second, or of one from its float model; return the
    exit code.

    Raises:
        QualityGateError: a gate fails, and the result was not asked for as JSON.
    """
    if len(texts) > 2:
        raise UsageError(f"found {len(texts)} evaluations, expected one or two: before and after")
    conditions = [parse_gate(text) for text in gates]
    if output is not None:
        require_outputs([output], [rankings.evaluation_file(text) for text in texts])
    found = judged(_changes(texts, pairs), conditions, when)
    if output is not None:
        _write(output, found)
    if as_json:
        # one document whatever happens: the gates that fail stand in it
        print_json(found.model_dump(mode="json", by_alias=True, exclude_none=True))
        return QualityGateError.exit_code if found.failed else 0
    _print(found)
    if output is not None:
        say(f"Wrote {output}")
    require_passed(found)
    return 0


def _changes(texts: Sequence[str], pairs: Sequence[str]) -> Changes:
    """Return what changed from the first to the second; of one alone, against its float model."""
    if len(texts) == 2:
        return rankings.compare_evaluations(texts[0], texts[1], _pairs(pairs))
    if pairs:
        raise UsageError("--pair is for two evaluations, found one")
    found = document(rankings.evaluation_file(texts[0]), Evaluation)
    if not (found.variants[1:] or found.failures):
        raise UsageError(
            "only the float model was measured, expected variants to compare with it",
            where=texts[0],
            hint="Evaluate it with models that were made from it, or give two evaluations.",
        )
    return against_float(found)


def _write(output: Path, found: Changes) -> None:
    if output.suffix == ".md":
        write_text(output, changes_markdown(found))
    else:
        write_document(output, found)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        before, _, after = text.partition("=")
        if not before or not after or before in found:
            raise UsageError(
                f"--pair {text!r}: expected BEFORE=AFTER, two names of variants, each once"
            )
        found[before] = after
    return found


def _print(found: Changes) -> None:
    if found.settings:
        print_table(SETTINGS, setting_rows(found), left=3)
    if found.changes:
        print_table(HEADINGS, change_rows(found), left=2, spare=["before"])
    if found.ranking is not None and found.ranking.spearman is not None:
        ranking = found.ranking
        say(
            f"Rankings of {ranking.common} nodes: Spearman {ranking.spearman:.4f},"
            f" {ranking.top_overlap:.0%} of the top {ranking.top} the same."
        )
    for profile in found.profiles:
        said = [
            f"{what} {len(names)} ({', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)})"
            for what, names in (("now also quantizes", profile.joined), ("not", profile.left))
            if names
        ]
        say(f"{profile.name} {'; '.join(said)}")
    for line in notes(found):
        say(line)

"""`qgraph compare` of two evaluations or run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qgraph._cli.console import print_json, print_table, say
from qgraph._cli.outputs import require_outputs
from qgraph._evaluation.changes import Change, Changes
from qgraph._evaluation.gates import FailWhen, parse_gate, require
from qgraph._evaluation.pairing import PairedBy
from qgraph._evaluation.results import Evaluation
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_json, write_document
from qgraph._metrics.table import in_order, metric
from qgraph._steps import compare as rankings

_SHOWN = 3
_PAIRED = {
    PairedBy.GIVEN: "so --pair says",
    PairedBy.SCHEME: "the same profile and scheme",
    PairedBy.PROFILE: "the same profile",
    PairedBy.NAME: "the same name",
    PairedBy.CONTENT: "the same file",
}


def are_evaluations(paths: Sequence[Path]) -> bool:
    """Return whether these are run folders or evaluations, and no rankings."""
    return all(path.is_dir() or _is_evaluation(path) for path in paths)


def compare_runs(
    texts: Sequence[str],
    gates: Sequence[str],
    output: Path | None,
    *,
    when: FailWhen,
    pairs: Sequence[str],
    as_json: bool,
) -> None:
    """Print what changed from the first to the second; fail if a gate says so."""
    if len(texts) != 2:
        raise UsageError(f"found {len(texts)} evaluations, expected two: before and after")
    conditions = [parse_gate(text) for text in gates]
    before, after = texts
    found = rankings.compare_evaluations(before, after, _pairs(pairs))
    if output is not None:
        require_outputs([output], [rankings.evaluation_file(text) for text in texts])
        write_document(output, found)
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True, exclude_none=True))
    else:
        _print(found)
        if output is not None:
            say(f"Wrote {output}")
    require(found, conditions, when)


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


def _is_evaluation(path: Path) -> bool:
    if path.suffix != ".json" or not path.is_file():
        return False
    content = read_json(path)
    return isinstance(content, dict) and content.get("schema") == Evaluation.SCHEMA


def _print(found: Changes) -> None:
    if found.settings:
        print_table(
            ["made with", "before", "after"],
            [[item.name, item.before, item.after] for item in found.settings],
            left=3,
        )
    shown = in_order({item.metric for item in found.changes}, narrow=True)
    print_table(
        ["variant", "metric", "before", "after", "difference (95 %)", ""],
        [_row(item) for item in found.changes if item.metric in shown],
        left=2,
    )
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
    for pair in found.pairs:
        if pair.before != pair.after:
            say(f"{pair.before} was compared with {pair.after}: {_PAIRED[pair.by]}.")
    for when, names in (("before", found.only_before), ("after", found.only_after)):
        if names:
            say(f"Only {when}, and not compared: {', '.join(names)}")


def _row(change: Change) -> list[str]:
    known = metric(change.metric)
    difference = known.signed.format(change.difference)
    if change.interval is not None:
        low, high = (known.signed.format(end) for end in change.interval)
        difference += f" [{low}, {high}]"
    values = [known.form.format(value) for value in (change.before, change.after)]
    return [change.variant, known.label, *values, difference, verdict(change)]


def verdict(change: Change) -> str:
    """Return what a change amounts to, in words."""
    if change.difference == 0:
        return "same"
    if change.beyond_noise is None:
        return "no samples of both to tell from noise"
    kind = "" if change.paired else " (other samples)"
    kind += ", but on too few samples to be sure" if change.doubtful else ""
    return ("beyond noise" if change.beyond_noise else "within noise") + kind

"""`qgraph compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from qgraph._cli import options
from qgraph._cli.commands.compare_runs import compare_runs, is_evaluation
from qgraph._cli.console import print_json, print_table, say
from qgraph._cli.outputs import require_outputs
from qgraph._evaluation.gates import FailWhen
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import write_document
from qgraph._graph.io.files import write_text
from qgraph._sensitivity.ranking.comparison import Comparison, Disagreement, Pair
from qgraph._sensitivity.ranking.files import Source, Which
from qgraph._steps.compare import compare as compare_rankings
from qgraph._steps.compare import scatter_plot


@click.command()
@click.argument("rankings", nargs=-1, required=True, metavar="[LABEL=]FILE...")
@click.option(
    "--score",
    type=options.EnumChoice(Which),
    default=Which.AUTO.value,
    show_default=True,
    help="The score of a sensitivity.json that ranks its nodes. auto: solo if it has one, else"
    " gain.",
)
@click.option(
    "--lower-is-worse",
    multiple=True,
    metavar="LABEL",
    help="In this ranking of another tool, a smaller number means more damage, as for an SQNR.",
)
@click.option(
    "--tie-below",
    type=click.FloatRange(min=0),
    help="Count nodes as one tie if their score in the first file is below this share of its"
    " total.",
)
@click.option(
    "--top",
    type=options.Whole(min=1),
    default=10,
    show_default=True,
    help="How many nodes count as the top for the overlap, and how many disagreements to list.",
)
@click.option("--plot", type=options.PATH, help="Write a scatter plot (HTML) here.")
@options.gates
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="BEFORE=AFTER",
    help="With two evaluations: compare these two variants. All others are paired by profile, name"
    " or content.",
)
@options.common(None, "File to write the comparison to.  [default: none]")
def compare(
    rankings: tuple[str, ...],
    score: Which,
    lower_is_worse: tuple[str, ...],
    tie_below: float | None,
    top: int,
    plot: Path | None,
    gates: tuple[str, ...],
    fail_when: FailWhen,
    pairs: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare rankings of one model's nodes, or evaluations of its variants.

    A ranking is a sensitivity.json, or {node or module path: score} from any tool, as JSON or CSV.
    A larger score means a more sensitive node.

    With two evaluation.json files or two run folders, it shows the changes, and which are beyond
    noise. With one, it compares the variants with their float model. -o FILE.md writes a table for
    a pull request.
    """
    evaluations = [is_evaluation(Path(text)) for text in rankings]
    if gates or pairs or any(evaluations):
        _require_there(rankings)
    if all(evaluations):
        if plot is not None or lower_is_worse or tie_below is not None:
            raise UsageError("--plot, --lower-is-worse and --tie-below are for rankings")
        return compare_runs(rankings, gates, output, when=fail_when, pairs=pairs, as_json=as_json)
    if gates or pairs:
        raise UsageError(f"{'--fail-if' if gates else '--pair'} is for evaluations and run folders")
    sources = _sources(rankings, score, lower_is_worse)
    files = [path for path in (output, plot) if path is not None]
    require_outputs(files, [source.path for source in sources])
    found = compare_rankings(sources, top=top, tie_below=tie_below)
    if output is not None:
        write_document(output, found)
    if plot is not None:
        write_text(plot, scatter_plot(found))
    if as_json:
        print_json(found.model_dump(mode="json", by_alias=True, exclude_none=True))
        return 0
    _print(found, top)
    for path in files:
        say(f"Wrote {path}")
    return 0


def _require_there(paths: Sequence[str]) -> None:
    """Check that what gates are about exists: a baseline that CI did not find, above all."""
    for path in paths:
        if not Path(path).exists():
            raise InputError(
                "no such file or folder",
                where=path,
                hint="Give an evaluation.json or a run folder. A baseline that CI keeps has to be"
                " restored first.",
            )


def _sources(rankings: Sequence[str], score: Which, lower: Sequence[str]) -> list[Source]:
    """Return what to read; a file's label is what stands before `=`, else its name."""
    sources = []
    for text in rankings:
        label, _, rest = text.partition("=")
        path = Path(rest) if rest and not Path(text).exists() else Path(text)
        label = label if path == Path(rest) else path.stem
        sources.append(Source(path, label, score, label in lower))
    unknown = sorted(set(lower) - {source.label for source in sources})
    if unknown:
        raise click.BadParameter(f"--lower-is-worse {unknown[0]}: no ranking has this label")
    return sources


def _print(found: Comparison, top: int) -> None:
    headings = ["rankings", "nodes", "Spearman", "Kendall", "top overlap", "only 1st", "only 2nd"]
    print_table(headings, [_row(pair) for pair in found.pairs])
    for note in found.notes:
        say(note)
    if found.tied:
        say(f"{len(found.tied)} nodes count as one tie.")
    for pair in found.pairs:
        say(f"\n{pair.a} and {pair.b} disagree most about:")
        headings = [
            "node",
            f"rank {pair.a}",
            f"rank {pair.b}",
            f"score {pair.a}",
            f"score {pair.b}",
        ]
        print_table(headings, [_disagreement(node) for node in pair.nodes[:top]])
        for label, names in ((pair.a, pair.only_a), (pair.b, pair.only_b)):
            if names:
                say(f"Only in {label}: {', '.join(names)}")


def _row(pair: Pair) -> list[str]:
    figures = ["" if x is None else f"{x:.4f}" for x in (pair.spearman, pair.kendall)]
    overlap = f"{pair.top_overlap:.0%} of {pair.top}"
    only = [str(len(pair.only_a)), str(len(pair.only_b))]
    return [f"{pair.a} / {pair.b}", str(pair.common), *figures, overlap, *only]


def _disagreement(node: Disagreement) -> list[str]:
    ranks = [f"{node.rank_a:g}", f"{node.rank_b:g}"]
    return [node.name, *ranks, f"{node.score_a:.3e}", f"{node.score_b:.3e}"]

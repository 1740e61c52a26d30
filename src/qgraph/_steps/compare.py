"""Rankings, and evaluations, held against each other: what `qgraph compare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qgraph._evaluation.changes import Changes
from qgraph._evaluation.comparing import compare_evaluations as _compare_evaluations
from qgraph._evaluation.results import Evaluation
from qgraph._evaluation.run_changes import add_runs
from qgraph._graph.errors import UsageError
from qgraph._sensitivity.ranking.agreement import compare_rankings
from qgraph._sensitivity.ranking.comparison import Comparison
from qgraph._sensitivity.ranking.files import Source, read_rankings
from qgraph._steps.given import AnyPath, path_of
from qgraph._steps.inputs import document
from qgraph._steps.report import without_charts


def compare(
    sources: Sequence[Source | AnyPath], *, top: int = 10, tie_below: float | None = None
) -> Comparison:
    """Return how rankings of one model's nodes, or of two exports of it, agree pair by pair.

    `sources`: reports, `{name: number}` as JSON, or `name,number` as CSV. With `tie_below`, nodes
    with a smaller share of the first ranking's total count as one tie.

    Raises:
        InputError: no such file, or not text.
        UsageError: not a ranking, or reports of different models.
    """
    if isinstance(sources, str | Path | Source):
        raise UsageError(f"found one ranking, {sources}, expected a list of two or more")
    return compare_rankings(read_rankings(list(map(_source, sources))), top, tie_below)


def _source(given: Source | AnyPath) -> Source:
    if isinstance(given, Source):
        return given
    path = path_of(given, "a ranking")
    return Source(path, path.stem)


def compare_evaluations(
    before: Evaluation | AnyPath,
    after: Evaluation | AnyPath,
    pairs: Mapping[str, str] | None = None,
) -> Changes:
    """Return the changes between two evaluations or run folders, and which are beyond noise.

    `pairs`: variant before → variant after, for variants that metadata and names do not pair. With
    run folders, it also compares the rankings, and the nodes in the profiles.

    Raises:
        UsageError: they are of different tasks, have no variant in common, or `pairs` names one
            that is not there.
    """
    old, new = (
        item if isinstance(item, Evaluation) else document(evaluation_file(item), Evaluation)
        for item in (before, after)
    )
    found = _compare_evaluations(old, new, pairs)
    if isinstance(before, Evaluation) or isinstance(after, Evaluation):
        return found
    folders = [Path(before), Path(after)]
    return add_runs(found, *folders) if all(path.is_dir() for path in folders) else found


def evaluation_file(path: AnyPath) -> Path:
    """Return the evaluation.json that is meant by its path or by its run folder's."""
    found = path_of(path, "an evaluation")
    return found / "evaluation.json" if found.is_dir() else found


def scatter_plot(comparison: Comparison) -> str:
    """Return a comparison as an HTML page.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
    """
    try:
        # the chart library comes with an extra
        from qgraph._report.page import scatter_page
    except ImportError as error:
        raise without_charts(error, "the plot") from error
    return scatter_page(comparison)

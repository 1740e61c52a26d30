"""`qgraph.report` and `qgraph.figures`: the page, the Markdown and the charts of a run folder."""

from __future__ import annotations

from importlib.util import find_spec

from qgraph._graph.errors import EnvironmentFault, UsageError, install
from qgraph._report.markdown import render_summary
from qgraph._report.reported_run import read_run
from qgraph._steps.given import AnyPath, path_of


def report(run_folder: AnyPath) -> tuple[str, str]:
    """Return the report of a run folder as one self-contained HTML page and as Markdown.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model.
    """
    found = read_run(path_of(run_folder, "a run folder"), graph=True)
    try:
        # the chart library comes with an extra; the core writes JSON and tables without it
        from qgraph._report.page import render_page
    except ImportError as error:
        raise without_charts(error, "the report") from error
    return render_page(found), render_summary(found)


def summary(run_folder: AnyPath) -> str:
    """Return the report of a run folder as Markdown alone, which takes no extra.

    Raises:
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model.
    """
    return render_summary(read_run(path_of(run_folder, "a run folder")))


def can_draw() -> bool:
    """Return whether the `report` extra, which draws charts, is installed."""
    return find_spec("vl_convert") is not None


def figures(run_folder: AnyPath, kind: str = "svg") -> dict[str, bytes]:
    """Return the charts of a run folder's report by name, each as an `svg` or `png` file.

    Raises:
        EnvironmentFault: the `report` extra is not installed.
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model; or the kind is
            unknown.
    """
    if kind not in ("svg", "png"):
        raise UsageError(f"figures of the kind {kind!r} cannot be drawn; expected svg or png")
    found = read_run(path_of(run_folder, "a run folder"))
    try:
        # see above
        from qgraph._report.charts import charts
        from qgraph._report.drawing import FigureKind, draw
    except ImportError as error:
        raise without_charts(error, "the report") from error
    drawn = charts(found.evaluation, found.report, found.pairs)
    return {name: draw(spec, FigureKind(kind)) for name, spec in drawn.items()}


def without_charts(error: ImportError, what: str) -> EnvironmentFault:
    """Return the error of a page that cannot be drawn."""
    return EnvironmentFault(
        f"{what} needs a package that is not installed: {error.name}",
        hint=install("report"),
    )

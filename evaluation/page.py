"""The report of a run: one HTML page that needs no network, and Markdown."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evaluation import figures
from evaluation.markdown import columns, notes, rows, to_markdown
from evaluation.results import Evaluation
from graph.io.documents import read_document
from graph.io.models import ModelId
from quantize.profiles import Profiles
from quantize.ranges import require_same_model
from sensitivity.markdown import cell, code
from sensitivity.report import Sensitivity

_TEMPLATE = "report.html.j2"


def render(folder: Path) -> tuple[str, str]:
    """Return the page and the Markdown of the run in `folder`.

    Raises:
        InputError: a file of the run is missing.
        UsageError: a file of the run is not what it should be, or of another model.
    """
    evaluation = read_document(folder / "evaluation.json", Evaluation)
    report = read_document(folder / "sensitivity.json", Sensitivity)
    profiles = read_document(folder / "profiles.json", Profiles)
    model = ModelId(evaluation.model.path, evaluation.model.sha256)
    require_same_model(report.model, model, str(folder / "sensitivity.json"))
    require_same_model(profiles.model, model, str(folder / "profiles.json"))
    return _page(evaluation, report, profiles), _text(evaluation, report, profiles)


def _page(evaluation: Evaluation, report: Sensitivity, profiles: Profiles) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {
        "frontier": figures.frontier(evaluation, profiles),
        "bars": figures.sensitivity_bars(report),
        "prediction": figures.predicted_against_measured(evaluation),
    }
    return environment.get_template(_TEMPLATE).render(
        evaluation=evaluation,
        report=report,
        profiles=profiles.profiles,
        columns=columns(evaluation, narrow=True),
        rows=rows(evaluation, narrow=True),
        notes=notes(evaluation),
        nodes=sorted(report.nodes, key=lambda node: node.rank),
        quality=figures.quality_of(evaluation),
        # plotly's own script and figures are the only markup that is not escaped
        script=Markup(get_plotlyjs()),  # noqa: S704
        charts={name: _json(figure) for name, figure in charts.items() if figure},
    )


def _json(figure: go.Figure) -> Markup:
    """Return a figure as JSON that cannot end the script element it stands in."""
    return Markup(figure.to_json().replace("<", "\\u003c"))  # noqa: S704


def _text(evaluation: Evaluation, report: Sensitivity, profiles: Profiles) -> str:
    worst = sorted(report.nodes, key=lambda node: node.rank)[:10]
    lines = [
        f"# {cell(evaluation.model.path)}: {report.scheme}",
        "",
        to_markdown(evaluation),
        "| profile | nodes | MACs | params | predicted MSE |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {cell(item.name)} {cell(item.title)} | {item.fraction.nodes:.0%} "
            f"| {item.fraction.macs:.0%} | {item.fraction.params:.0%} | {item.predicted.mse:.2e} |"
            for item in profiles.profiles
            if item.fraction and item.predicted
        ),
        "",
        "Most sensitive nodes:",
        "",
        *(f"{node.rank}. {code(node.name)}" for node in worst),
    ]
    return "\n".join(lines) + "\n"

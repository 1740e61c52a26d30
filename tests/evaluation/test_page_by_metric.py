"""The report shows what the ranking goes by, on the classifier that ships with qgraph."""

from __future__ import annotations

from pathlib import Path

import pytest

import qgraph
from qgraph._evaluation.results import Evaluation
from qgraph._report.charts import charts
from qgraph._report.markdown import render_summary
from qgraph._report.page import render_page
from qgraph._report.reported_run import ReportedRun
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.report import Sensitivity

SHIPPED = Path(__file__).parents[2] / "models/vit_tiny"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> qgraph.Model:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("classifier")
    qgraph.export(SHIPPED / "checkpoint", folder)
    return qgraph.open(folder / "model.onnx")


def scored(model: qgraph.Model, key: str) -> Sensitivity:
    data = [SHIPPED / "data/calibration"]
    return qgraph.sensitivity(model, data=data, samples=2, metric=key, fast=True)[0]


def damage(figures: dict[str, float | None], key: str) -> float:
    """Return the amount of damage, spelled out here a second time."""
    value = figures[key]
    assert value is not None
    return {"kl": value, "cosine": 1 - value, "sqnr_db": 10 ** (-value / 10)}[key]


@pytest.mark.parametrize(
    ("key", "heading", "axis"),
    [
        ("kl", "KL", "KL from float (nats per token)"),
        ("cosine", "1 − cosine", "1 − cosine"),
        ("sqnr_db", "noise/signal power", "noise/signal power"),
    ],
)
def test_page_charts_and_markdown_show_the_metric_that_ranks(
    classifier: qgraph.Model, evaluation: Evaluation, key: str, heading: str, axis: str
) -> None:
    report = scored(classifier, key)
    run = ReportedRun(evaluation, report, qgraph.profile(report), ())
    whole = report.baseline
    assert whole is not None
    total = damage(whole.all_quantized.figures, key)
    alone = {n.name: damage(n.solo.figures, key) for n in report.nodes if n.solo}
    gains = {
        n.name: total - damage(n.leave_one_out.figures, key)
        for n in report.nodes
        if n.leave_one_out
    }

    drawn = charts(evaluation, report)
    for name in ("nodes", "heatmap", "company"):
        values = drawn[name]["data"]["values"]
        assert {row["node"] for row in values} <= alone.keys() and len(values) > 10
        assert [row["error"] for row in values] == pytest.approx([alone[r["node"]] for r in values])
        assert [row["gain"] for row in values] == pytest.approx([gains[r["node"]] for r in values])
    assert drawn["nodes"]["encoding"]["y"]["title"] == f"error alone: {axis}"
    assert drawn["heatmap"]["encoding"]["color"]["title"] == f"alone: {heading}"
    assert "(MSE)" not in str([drawn[name] for name in ("nodes", "heatmap", "company")])
    ranked = sorted(drawn["nodes"]["data"]["values"], key=lambda row: row["rank"])
    assert ranked == sorted(ranked, key=lambda row: -row["error"])

    page = render_page(run)
    assert f">alone: {heading}</button>" in page
    assert f">gain if left out: {heading}</button>" in page
    first = min(report.nodes, key=lambda node: node.rank)
    row = page[page.index("<tbody><tr><td data-value=") :].partition("</tr>")[0]
    assert f">{alone[first.name]:.3e}</td>" in row and f">{gains[first.name]:+.2e}</td>" in row
    assert f"1. `{first.name}`, {heading} alone {alone[first.name]:.2e}" in render_summary(run)
    assert f"gain if left out: {heading} |" in to_markdown(report)

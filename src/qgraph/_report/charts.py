"""The charts of the report, as Vega-Lite specifications: numbers in, nothing else.

One description serves the page (drawn in the browser, with tooltips) and the figures for papers
(drawn without one).
"""

from __future__ import annotations

from collections.abc import Sequence

from qgraph._evaluation.results import Evaluation
from qgraph._report.node_charts import heat_map, in_company, node_errors, rankings, side_by_side
from qgraph._report.spec import Spec
from qgraph._report.variant_charts import (
    frontier_by_share,
    frontier_by_size,
    predicted_against_measured,
)
from qgraph._sensitivity.ranking.comparison import Pair
from qgraph._sensitivity.report import Sensitivity


def charts(
    evaluation: Evaluation, report: Sensitivity, pairs: Sequence[Pair] = ()
) -> dict[str, Spec]:
    """Return name → chart, in the order of the page; a chart without data is left out."""
    found = {
        "frontier": frontier_by_share(evaluation),
        "size": frontier_by_size(evaluation),
        "prediction": predicted_against_measured(evaluation),
        "heatmap": heat_map(report),
        "nodes": node_errors(report),
        "schemes": side_by_side(report),
        "company": in_company(report),
        **{f"ranking-{index}": rankings(pair) for index, pair in enumerate(pairs)},
    }
    return {name: chart for name, chart in found.items() if chart is not None}

"""What reports show of a node or a group: figures by the metric that the ranking goes by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qgraph._metrics import metric
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.report import GroupScore, NodeScore, Sensitivity


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Amounts that are 0 for equal outputs. `damage`: of quantizing it alone; `gain`: what leaving
    it out removes, negative where quantizing it helps. None where that was not measured, or is not
    finite.
    """

    damage: float | None
    gain: float | None


def node_figures(unit: NodeScore | GroupScore, report: Sensitivity) -> NodeFigures:
    """Return what `report` says of one of its nodes or groups."""
    key, solo, without = report.metric, unit.solo, unit.leave_one_out
    whole = report.baseline.all_quantized if report.baseline is not None else None
    gain = None
    if without is not None and whole is not None:
        gain = without.gain if key == "mse" else harm(None, without, whole, key)
    return NodeFigures(
        damage=None if solo is None else _finite(metric(key).damage(solo.figures)),
        gain=_finite(gain),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

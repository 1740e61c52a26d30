"""How far outputs are from the float model's: what is summed, and the metrics made of it."""

from qgraph._metrics.distance import Columns, Comparator, Split, Sums, log_softmax, whole
from qgraph._metrics.table import (
    METRICS,
    SCORED,
    Figures,
    Metric,
    figures,
    in_order,
    metric,
    quality_key,
)

__all__ = [
    "METRICS",
    "SCORED",
    "Columns",
    "Comparator",
    "Figures",
    "Metric",
    "Split",
    "Sums",
    "figures",
    "in_order",
    "log_softmax",
    "metric",
    "quality_key",
    "whole",
]

"""`qgraph.lint/1`: what the rules found in one model, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qgraph._graph.errors import QualityGateError
from qgraph._graph.io.documents import Document, Part
from qgraph._graph.rules.finding import Finding, Fix, Severity, Target


class PlacementPart(Part):
    """What INT8 costs and brings at a node. `int8`: whether it is in eight bits now, `fp8`: in FP8,
    whose cost it then is. `rank` (1 the most
    sensitive), `mse`, at the outputs if it alone is quantized, and `cost`, the damage by the metric
    that ranks, are a sensitivity report's;
    `macs_share` is of all nodes of that report. `cost_per_mac`: its share of the errors ÷ its share
    of the MACs, so 1 is the average and less a good trade. `rules`: whose advice is about it.
    """

    node: str
    int8: bool
    fp8: bool | None = None
    rank: int
    mse: float | None = None
    cost: float | None = None
    macs_share: float
    cost_per_mac: float | None = None
    rules: tuple[str, ...] = ()


class Lint(Document):
    """The findings of TensorRT's rules in one model.

    `counts`: severity → number of findings. `operators`: the source of the table of operators, for
    each version of the target. `quantized`: whether the model has any Q/DQ. `placement`: the nodes
    of a sensitivity report, ranked by `metric`: the worst trades among the INT8 nodes first, then
    the best ones among the float nodes.
    """

    SCHEMA: ClassVar[str] = "qgraph.lint/1"
    ROWS: ClassVar[str] = "findings"

    model: str
    sha256: str
    target: Target
    operators: str
    quantized: bool
    counts: dict[str, int]
    findings: tuple[Finding, ...]
    fixed: tuple[Fix, ...] = ()
    metric: str | None = None
    placement: tuple[PlacementPart, ...] = ()

    @property
    def builds(self) -> bool:
        """Return whether no rule says that TensorRT refuses the model."""
        return self.counts[Severity.ERROR] == 0


def count(findings: Sequence[Finding]) -> dict[str, int]:
    """Return severity → number of findings, every severity named."""
    return {str(kind): sum(item.severity is kind for item in findings) for kind in Severity}


def require_builds(report: Lint) -> None:
    """Check that a model has no errors.

    Raises:
        QualityGateError: it has; the first is named.
    """
    if report.builds:
        return
    first = next(item for item in report.findings if item.severity is Severity.ERROR)
    raise QualityGateError(
        f"{report.counts[Severity.ERROR]} errors for {report.target}, the first {first.rule} at"
        f" {first.node or 'the model'}: {first.reason}",
        where=report.model,
        hint=first.remedy,
    )

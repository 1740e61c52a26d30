"""What INT8 costs and brings at each node: a sensitivity report beside what lint finds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qgraph._evaluation.variants import types_of_nodes
from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import identify
from qgraph._graph.rules.finding import Finding, Severity
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.rules.report import PlacementPart
from qgraph._quantize.provenance import Provenance
from qgraph._sensitivity.ranking.node_figures import node_figures
from qgraph._sensitivity.report import NodeScore, Sensitivity


def placement(
    model: Path, graph: QdqGraph, findings: Iterable[Finding], scores: Sensitivity, where: str
) -> tuple[PlacementPart, ...]:
    """Return a part for every node of the sensitivity report that the model has: the worst trade
    among the INT8 nodes first, then the best among the float ones.

    Raises:
        UsageError: the report is of another model.
    """
    _require_same_model(model, graph, scores, where)
    there = {node.name: node for node in graph.of(*GEMMS)}
    rules: dict[str, dict[str, None]] = {}
    for item in findings:
        if item.node is not None and item.severity is not Severity.ERROR:
            rules.setdefault(item.node, {})[item.rule] = None
    types = types_of_nodes(graph.model)
    own = {n.name: scores.scored_in(n, types.get(n.name) or "float") for n in scores.nodes}
    costs = {name: _cost(node, scores) for name, node in own.items()}
    all_macs, all_costs = sum(n.macs for n in scores.nodes), sum(filter(None, costs.values()))

    def part(node: NodeScore) -> PlacementPart:
        share, cost = node.macs / all_macs if all_macs else 0.0, costs[node.name]
        kind, solo = types.get(node.name), own[node.name].solo
        known = cost is not None and share > 0 and all_costs > 0
        return PlacementPart(
            node=node.name,
            int8=kind is not None,
            fp8=kind == "fp8" or None,
            rank=node.rank,
            mse=solo.mse if solo is not None else None,
            cost=cost,
            macs_share=share,
            cost_per_mac=(cost or 0.0) / all_costs / share if known else None,
            rules=tuple(rules.get(node.name, ())),
        )

    return tuple(sorted((part(n) for n in scores.nodes if n.name in there), key=_order))


def _cost(node: NodeScore, report: Sensitivity) -> float | None:
    """Return the damage that a node does alone, else what leaving it out saves; None where neither
    was scored in the type it has.
    """
    figures = node_figures(node, report)
    if node.solo is not None:
        return figures.damage
    return None if figures.gain is None else max(0.0, figures.gain)


def _order(part: PlacementPart) -> tuple[bool, float, int]:
    cost = part.cost_per_mac or 0.0
    return (not part.int8, -cost if part.int8 else cost, part.rank)


def _require_same_model(path: Path, graph: QdqGraph, scores: Sensitivity, where: str) -> None:
    """Check that the report is of this model, or of the one it was quantized from; of another
    tool's model, that it has nodes of those names.
    """
    source = Provenance.of(graph.model).source_sha256
    if source is None and not graph.is_quantized:
        source = identify(path).sha256
    if source is not None and source != scores.model.sha256:
        raise UsageError(
            f"the report is about the model {scores.model.sha256[:16]}…, this one is or was"
            f" quantized from {source[:16]}…",
            where=where,
            hint="Give the sensitivity.json of the same model.",
        )
    if not {node.name for node in scores.nodes} & {node.name for node in graph.nodes}:
        raise UsageError(
            "no node of the report is in the model", where=where, hint="Were they renamed?"
        )

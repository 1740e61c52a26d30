"""What became of the promised INT8 nodes in an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from qgraph._graph.io.documents import Document, Part
from qgraph._handoff.document import NodePrecision
from qgraph._handoff.layer_info import TrtLayer
from qgraph._handoff.precision import FLOAT, INT8


class EngineNode(Part):
    """A promised node. `outcome`: int8, float or unseen; `layer`: where it ended up."""

    node: str
    outcome: str
    layer: str | None = None
    reason: str
    merged_with: tuple[str, ...] = ()


class Reformat(Part):
    """A layer that only converts: type or memory layout."""

    layer: str
    source: str | None = None
    target: str | None = None


class EngineLayers(Document):
    """The layers of an engine, compared with its bundle.

    `promised`: the nodes that are meant for INT8. `detailed` is false if the layers do not tell
    their precision.
    """

    SCHEMA: ClassVar[str] = "qgraph.engine_layers/1"

    layers: int
    detailed: bool
    promised: int
    int8: int
    nodes: tuple[EngineNode, ...]
    reformats: tuple[Reformat, ...]

    @property
    def missed(self) -> tuple[EngineNode, ...]:
        """Return the promised nodes that run in float, or are nowhere to be seen."""
        return tuple(item for item in self.nodes if item.outcome != INT8)


def compare_layers(table: Sequence[NodePrecision], layers: Sequence[TrtLayer]) -> EngineLayers:
    """Return what became of the nodes that a bundle's precision table promised INT8."""
    gemms = {row.node for row in table}
    promised = [row.node for row in table if row.precision != FLOAT]
    detailed = any(layer.inputs is not None or layer.weights for layer in layers)
    nodes = tuple(_outcome(node, layers, gemms, detailed=detailed) for node in promised)
    return EngineLayers(
        schema=EngineLayers.SCHEMA,
        layers=len(layers),
        detailed=detailed,
        promised=len(promised),
        int8=sum(item.outcome == INT8 for item in nodes),
        nodes=nodes,
        reformats=tuple(_reformat(layer) for layer in layers if layer.is_reformat),
    )


def _outcome(
    node: str, layers: Sequence[TrtLayer], gemms: set[str], *, detailed: bool
) -> EngineNode:
    own = [layer for layer in layers if node in layer.nodes and not layer.is_reformat]
    if not own:
        regions = sum(layer.is_region for layer in layers)
        hidden = f"; {regions} layers are whole regions that do not list theirs" if regions else ""
        return EngineNode(node=node, outcome="unseen", reason=f"no layer names it{hidden}")
    best = next((layer for layer in own if layer.is_int8), own[0])
    merged = tuple(other for other in best.nodes if other in gemms and other != node)
    if best.is_int8:
        outcome, reason = INT8, "its layer multiplies in 8 bits"
    elif not detailed:
        outcome, reason = "unknown", "the engine was built without --profilingVerbosity=detailed"
    else:
        kinds = ", ".join(dict.fromkeys(best.inputs or ())) or "nothing known"
        kernel = f", its kernel is {best.tactic}" if best.tactic else ""
        outcome, reason = "float", f"its layer reads {kinds}{kernel}"
    return EngineNode(
        node=node, outcome=outcome, layer=best.name, reason=reason, merged_with=merged
    )


def _reformat(layer: TrtLayer) -> Reformat:
    return Reformat(
        layer=layer.name,
        source=next(iter(layer.inputs or ()), None),
        target=next(iter(layer.outputs), None),
    )

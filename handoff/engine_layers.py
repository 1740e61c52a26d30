"""What became of the promised INT8 nodes in an engine, from TensorRT's exported layer information.

`trtexec --exportLayerInfo` writes `{"Layers": [...]}`. A layer is an object where the engine was
built with `--profilingVerbosity=detailed`, else just a name. Which ONNX nodes are in a layer stands
in its `Metadata` (`[ONNX Layer: NAME]`, several separated by a control character); older forms have
them in the layer's name, joined by ` + `.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graph.errors import InputError
from graph.io.documents import Document, Part, read_json
from handoff.document import NodePrecision
from handoff.precision import INT8

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]*)\]")
_INT8 = re.compile(r"\bint8\b", re.IGNORECASE)
_INT8_KERNEL = re.compile(r"(?:^|[_\W])(?:i8i8|i8f|s8s8|int8|imma)", re.IGNORECASE)


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
    """`promised` nodes were to be INT8; `detailed` is false where precision cannot be told."""

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


@dataclass(frozen=True, slots=True)
class Layer:
    """`nodes`: the ONNX nodes it computes. `inputs`: types, None where unknown."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...]
    tactic: str

    @property
    def is_reformat(self) -> bool:
        """Return whether it only converts."""
        return self.kind == "Reformat" or self.name.startswith("Reformatting CopyNode")

    @property
    def is_int8(self) -> bool:
        """Return whether it multiplies in INT8: it reads INT8, or its kernel says so."""
        reads = any(_INT8.search(kind) for kind in self.inputs or ())
        return reads or _INT8_KERNEL.search(self.tactic) is not None


def read_layers(path: Path) -> list[Layer]:
    """Return the layers of an engine.

    Raises:
        InputError: not the file that --exportLayerInfo writes.
    """
    content = read_json(path)
    layers = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(layers, list) or not layers:
        raise InputError(
            "found no list of layers, expected what trtexec --exportLayerInfo writes",
            where=str(path),
            hint="Build with --profilingVerbosity=detailed, as the bundle's scripts do.",
        )
    return [_layer(item, path) for item in layers]


def _layer(item: Any, path: Path) -> Layer:
    if isinstance(item, str):
        return Layer(item, "", _by_name(item), None, (), "")
    if not isinstance(item, dict) or not isinstance(item.get("Name"), str):
        raise InputError(f"a layer is {type(item).__name__} without a name", where=str(path))
    name = item["Name"]
    listed = _ONNX_LAYER.findall(str(item.get("Metadata", "")))
    return Layer(
        name=name,
        kind=str(item.get("LayerType", "")),
        nodes=tuple(dict.fromkeys(listed)) or _by_name(name),
        inputs=_types(item.get("Inputs")) if "Inputs" in item else None,
        outputs=_types(item.get("Outputs")),
        tactic=str(item.get("TacticName", "")),
    )


def _types(tensors: Any) -> tuple[str, ...]:
    found = [item for item in tensors or [] if isinstance(item, dict)]
    return tuple(str(item.get("Format/Datatype", item.get("Datatype", ""))) for item in found)


def _by_name(name: str) -> tuple[str, ...]:
    """Return the nodes in a layer's name: TensorRT joins those it fuses by ` + `."""
    return tuple(part.strip() for part in re.split(r" \+ |\|\|", name) if part.strip())


def compare(table: Sequence[NodePrecision], layers: Sequence[Layer]) -> EngineLayers:
    """Return what became of the nodes that a bundle's precision table promised INT8."""
    gemms = {row.node for row in table}
    promised = [row.node for row in table if row.precision == INT8]
    detailed = any(layer.inputs is not None for layer in layers)
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


def _outcome(node: str, layers: Iterable[Layer], gemms: set[str], *, detailed: bool) -> EngineNode:
    own = [layer for layer in layers if node in layer.nodes and not layer.is_reformat]
    if not own:
        return EngineNode(node=node, outcome="unseen", reason="no layer names it")
    best = next((layer for layer in own if layer.is_int8), own[0])
    merged = tuple(other for other in best.nodes if other in gemms and other != node)
    if best.is_int8:
        outcome, reason = INT8, "its layer reads INT8"
    elif not detailed:
        outcome, reason = "unknown", "the engine was built without --profilingVerbosity=detailed"
    else:
        kinds = ", ".join(dict.fromkeys(best.inputs or ())) or "nothing known"
        outcome, reason = "float", f"its layer reads {kinds}"
    return EngineNode(
        node=node, outcome=outcome, layer=best.name, reason=reason, merged_with=merged
    )


def _reformat(layer: Layer) -> Reformat:
    return Reformat(
        layer=layer.name,
        source=next(iter(layer.inputs or ()), None),
        target=next(iter(layer.outputs), None),
    )

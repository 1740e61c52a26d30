"""TensorRT's exported layer information: the layers of an engine, and what each computes in.

`trtexec --exportLayerInfo` writes `{"Layers": [...]}`, 11.x beside it `"I/O Tensors"`. A layer is
an object where the engine was built with `--profilingVerbosity=detailed`, else just a name. Which
ONNX nodes are in a layer stands in its `Metadata` (`[ONNX Layer: NAME]`, several separated by a
control character or by nothing); older forms have them in the layer's name, joined by ` + `. What
it reads and writes stands in `Inputs` and `Outputs`, what it multiplies by in `Weights` (10.x, of
convolutions) or `Constants` (11.x), the kernel in `TacticName`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgraph._graph.errors import InputError
from qgraph._graph.io.documents import read_json

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]*)\]")
_INT8 = re.compile(r"\b(?:int8|fp8\w*|e4m3\w*)\b", re.IGNORECASE)
_INT8_KERNEL = re.compile(r"(?:^|[_\W])(?:i8i8|i8f|s8s8|int8|imma|e4m3|f8f8)", re.IGNORECASE)
_FLOAT_KERNEL = re.compile(r"(?:^|[_\W])(?:t?f32f32|tf32|f16f16|bf16bf16)", re.IGNORECASE)
_REGION = re.compile(r"^\{?ForeignNode\[")


@dataclass(frozen=True, slots=True)
class TrtLayer:
    """`nodes`: the ONNX nodes it computes. `inputs`: types, None where unknown; `weights`: the type
    of what it multiplies by, '' where that is not said.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...]
    tactic: str
    weights: str = ""

    @property
    def is_reformat(self) -> bool:
        """Return whether it only converts."""
        return self.kind == "Reformat" or self.name.startswith("Reformatting CopyNode")

    @property
    def is_region(self) -> bool:
        """Return whether it is many nodes in one, of which only the first and last are named."""
        return _REGION.match(self.name) is not None

    @property
    def is_int8(self) -> bool:
        """Return whether it multiplies in INT8 or FP8: what its kernel says, else its weights, else
        what it reads. A layer that reads INT8 may dequantize it and multiply in float.
        """
        if _INT8_KERNEL.search(self.tactic):
            return True
        if _FLOAT_KERNEL.search(self.tactic) or (self.weights and not _INT8.search(self.weights)):
            return False
        return any(_INT8.search(kind) for kind in (*(self.inputs or ()), self.weights))


def read_layers(path: Path) -> list[TrtLayer]:
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


def _layer(item: Any, path: Path) -> TrtLayer:
    if isinstance(item, str):
        return TrtLayer(item, "", _by_name(item), None, (), "")
    if not isinstance(item, dict) or not isinstance(item.get("Name"), str):
        raise InputError(f"a layer is {type(item).__name__} without a name", where=str(path))
    name = item["Name"]
    listed = _ONNX_LAYER.findall(str(item.get("Metadata", "")))
    return TrtLayer(
        name=name,
        kind=str(item.get("LayerType", "")),
        nodes=tuple(dict.fromkeys(listed)) or _by_name(name),
        inputs=_types(item.get("Inputs")) if "Inputs" in item else None,
        outputs=_types(item.get("Outputs")),
        tactic=str(item.get("TacticName", "")),
        weights=_weights(item),
    )


def _weights(item: Mapping[str, Any]) -> str:
    """Return the type of a layer's weights: of the largest constant, where there are several."""
    weights = item.get("Weights")
    if isinstance(weights, dict):
        return str(weights.get("Type", ""))
    constants = _objects(item.get("Constants"))
    largest = max(constants, key=_entries, default={})
    return next(iter(_types([largest])), "") if _entries(largest) > 1 else ""


def _entries(tensor: Mapping[str, Any]) -> int:
    sizes = tensor.get("Dimensions")
    return math.prod(s for s in sizes if isinstance(s, int)) if isinstance(sizes, list) else 0


def _types(tensors: Any) -> tuple[str, ...]:
    found = _objects(tensors)
    return tuple(str(item.get("Format/Datatype", item.get("Datatype", ""))) for item in found)


def _objects(found: Any) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _by_name(name: str) -> tuple[str, ...]:
    """Return the nodes in a layer's name: TensorRT joins those it fuses by ` + `."""
    return tuple(part.strip() for part in re.split(r" \+ |\|\|", name) if part.strip())

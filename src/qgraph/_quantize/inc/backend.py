"""INC's own Q/DQ model of a profile, with what its placement does to the nodes left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from qgraph._graph.edit.nodes import GEMMS, QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.models import read_model
from qgraph._graph.keep import Keep
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc.child import converse
from qgraph._quantize.inc.eligible import eligible
from qgraph._quantize.inc.naming import private_names, renamed, restore_names
from qgraph._quantize.inc.protocol import RESULT, Request


@dataclass(frozen=True, slots=True)
class Violation:
    """A node that is not quantized and yet reads `tensor` from a DequantizeLinear."""

    node: str
    op_type: str
    tensor: str


@dataclass(frozen=True, slots=True, eq=False)
class IncModel:
    """`quantized`: the nodes INC quantized; `left_float`: those it was asked to and did not;
    `excluded`: violations of nodes that could be quantized and were left out; `others`: those of
    every other operator.
    """

    model: onnx.ModelProto
    quantized: tuple[str, ...]
    left_float: tuple[Keep, ...]
    excluded: tuple[Violation, ...]
    others: tuple[Violation, ...]


def quantize_with_inc(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    feeds: Sequence[Feed],
    *,
    tensorrt: bool,
    smooth: float | None = None,
) -> IncModel:
    """Return what INC's post-training quantization makes of the model, its names restored.

    `smooth`: the strength of INC's own SmoothQuant recipe, None without it.

    Raises:
        InputError: INC fails on the model, or it is not float32.
        LimitError: 2 GB of weights, or no memory.
        RuntimeDiedError: INC's process crashed.
    """
    asked, refusals = eligible(prepared.model, nodes, str(prepared.path))
    private = private_names(prepared.model)
    request = Request(
        inputs=tuple(spec.name for spec in prepared.inputs),
        feeds=len(feeds),
        candidates=tuple((private.get(node.name, node.name), node.op_type) for node in asked),
        tensorrt=tensorrt,
        outputs=(),
        logits=False,
        batches=0,
        write_model=True,
        smooth=smooth,
    )
    found: list[onnx.ModelProto] = []

    def collect(workspace: Path) -> None:
        found.append(read_model(workspace / RESULT))

    source = renamed(prepared.model, private)
    converse(source, feeds, request, lambda _: None, collect=collect)
    model = found[0]
    quantized = restore_names(model, private)
    left = [Keep(n.name, "INC leaves it float although asked") for n in asked
            if n.name not in quantized]  # fmt: skip
    violations = _violations(prepared.model, model, quantized)
    return IncModel(
        model,
        tuple(node.name for node in asked if node.name in quantized),
        (*refusals, *left),
        tuple(item for item in violations if item.op_type in GEMMS),
        tuple(item for item in violations if item.op_type not in GEMMS),
    )


def _violations(
    source: onnx.ModelProto, made: onnx.ModelProto, quantized: frozenset[str]
) -> list[Violation]:
    """Return the nodes of the float model that INC was told to leave and that read a DQ."""
    dequantized = {
        name
        for node in made.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    own = {node.name for node in source.graph.node} - quantized
    return [
        Violation(node.name, node.op_type, name)
        for node in made.graph.node
        if node.name in own
        for name in node.input
        if name in dequantized
    ]

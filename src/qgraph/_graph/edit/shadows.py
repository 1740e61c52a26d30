"""Shadows: beside each node quantized copies of it, and how far their outputs are from its own.

The float graph runs as ever; each shadow reads the float tensors. So one run tells, for every node
at once, what quantizing it, or only what it reads on one side, does to its own output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import copied, weave_in
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import FakeQuantizer
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.tensors import Array


class Side(Enum):
    """What a shadow quantizes."""

    BOTH = "both"
    ACTIVATION = "activation"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True, eq=False)
class ShadowGraph:
    """`errors`: (node, side) → the output that holds Σ(y − ŷ)²; `signals`: node → Σy²; all float32
    scalars. `differences`: (node, side) → the tensor y − ŷ. `weights`: quantized ones, which
    `model` only declares.
    """

    model: onnx.ModelProto
    errors: Mapping[tuple[str, Side], str]
    signals: Mapping[str, str]
    differences: Mapping[tuple[str, Side], str]
    weights: Mapping[str, Array]

    @property
    def outputs(self) -> list[str]:
        return [*self.errors.values(), *self.signals.values()]


def insert_shadows(
    model: onnx.ModelProto,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    sides: Sequence[Side] = (Side.BOTH,),
) -> ShadowGraph:
    """Return a copy of `model` that also makes the sums of each of `nodes`, for each of `sides`."""
    shadowed = copied(model)
    caster = _Caster(FakeQuantizer(shadowed.graph, quantization))
    chosen = {node.name: node for node in nodes}
    for proto in shadowed.graph.node:
        if proto.name in chosen:
            caster.add(proto, chosen[proto.name], sides)
    weave_in(shadowed.graph, caster.made)
    return ShadowGraph(
        shadowed, caster.errors, caster.signals, caster.differences, caster.quantizer.weights
    )


class _Caster:
    """Makes the shadows' nodes."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        self.quantizer = quantizer
        self.made: list[onnx.NodeProto] = []
        self.errors: dict[tuple[str, Side], str] = {}
        self.signals: dict[str, str] = {}
        self.differences: dict[tuple[str, Side], str] = {}

    def add(self, proto: onnx.NodeProto, node: QuantizableNode, sides: Sequence[Side]) -> None:
        before, rename = self.quantizer.inputs_of(proto, node)
        self.made += before
        self.signals[node.name] = self._square_sum(proto.name, proto.output[0])
        for side in sides:
            chosen = {i: name for i, name in rename.items() if _is_on(side, i, node)}
            copy = copied(proto)
            copy.name = f"{proto.name}/shadow.{side.value}"
            copy.input[:] = [chosen.get(index, name) for index, name in enumerate(proto.input)]
            copy.output[:] = [self.quantizer.fresh(f"{proto.name}/shadow")]
            off = self.quantizer.fresh(f"{proto.name}/off")
            self.made += [copy, helper.make_node("Sub", [proto.output[0], copy.output[0]], [off])]
            self.differences[node.name, side] = off
            self.errors[node.name, side] = self._square_sum(proto.name, off)

    def _square_sum(self, stem: str, tensor: str) -> str:
        single, total = (self.quantizer.fresh(f"{stem}/{tag}") for tag in ("fp32", "sum"))
        self.made += [
            helper.make_node("Cast", [tensor], [single], to=TensorProto.FLOAT),
            helper.make_node("ReduceSumSquare", [single], [total], keepdims=0),
        ]
        return total


def _is_on(side: Side, index: int, node: QuantizableNode) -> bool:
    """Return whether a shadow of this side quantizes this input."""
    if side is Side.BOTH or node.weight is None:
        return side is not Side.WEIGHT
    return (index == node.weight.index) is (side is Side.WEIGHT)

"""A Q/DQ graph, looked up: what Q and DQ stand for, and constants that lie beside the model.

Weights stay on the disk. A constant is read when a rule asks for it, which is for scales and zero
points alone, so models of any size are read in the memory their graph takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from qgraph._graph.bodies import bodies_in, copied, nodes_within, sort_nodes, with_bodies
from qgraph._graph.edit.inline import inline_functions
from qgraph._graph.edit.names import name_nodes
from qgraph._graph.index import ONNX, GraphIndex, attributes
from qgraph._graph.io.models import read_model
from qgraph._graph.io.weights import array_of, is_on_disk, point_into
from qgraph._graph.tensors import Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_SHAPE_OPS = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, eq=False)
class QdqGraph(GraphIndex):
    """`model`: without external data loaded; `folder`: where that lies.

    Nodes are put in an order that runs; a cycle is an InputError. Those without a name of their own
    get one, the same on every run. A body sees what `outer`, the graph around it, makes and holds;
    `place`: what stands before the names of its nodes, as in `if/then_branch/MatMul`.
    """

    folder: Path
    outer: QdqGraph | None = field(default=None, kw_only=True)
    place: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Put the nodes in order, and name what has no name, in bodies too."""
        if self.outer is None:
            sort_nodes(self.graph)
            for graph in with_bodies(self.graph):
                name_nodes(graph)

    @classmethod
    def read(cls, path: Path) -> QdqGraph:
        """Return the graph in `path`, functions written out, its weights left on the disk.

        Raises:
            InputError: not an ONNX model, or its external data cannot be used.
        """
        model = read_model(path, weights=False)
        inline_functions(model)
        return cls(model, path.parent)

    def to_lint(self) -> list[QdqGraph]:
        """Return the graph, its functions of other opsets written out too, and all its bodies."""
        if not self.model.functions:
            return list(self.scopes())
        model = copied(self.model)
        inline_functions(model, to_read=True)
        return list(QdqGraph(model, self.folder).scopes())

    def scopes(self) -> Iterator[QdqGraph]:
        """Yield the graph and those inside it, in the order of `with_bodies`."""
        yield self
        for node in self.nodes:
            for item in node.attribute:
                for body in bodies_in(item):
                    place = f"{self.place}{node.name}/{item.name}/"
                    inner = QdqGraph(self.model, self.folder, body=body, outer=self, place=place)
                    yield from inner.scopes()

    @cached_property
    def producer(self) -> Mapping[str, onnx.NodeProto]:
        """Tensor → the node that makes it, inside or around; inputs and initializers have none."""
        around = {} if self.outer is None else self.outer.producer
        return {**around, **{name: node for node in self.nodes for name in node.output if name}}

    @cached_property
    def initializers(self) -> Mapping[str, onnx.TensorProto]:
        around = {} if self.outer is None else self.outer.initializers
        return {**around, **{tensor.name: tensor for tensor in self.graph.initializer}}

    @cached_property
    def declared(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        """Tensor → what is known of it; inferred once for all bodies."""
        return super().declared if self.outer is None else self.outer.declared

    @cached_property
    def is_quantized(self) -> bool:
        """Return whether there is any QuantizeLinear or DequantizeLinear in the model."""
        if self.outer is not None:
            return self.outer.is_quantized
        pairs = (QUANTIZE, DEQUANTIZE)
        return any(
            n.op_type in pairs and n.domain in ONNX for n in nodes_within(self.model.graph.node)
        )

    def is_dequantized(self, tensor: str) -> bool:
        """Return whether `tensor` comes from a DequantizeLinear, reshaped or not."""
        return self.dequantizer_of(tensor) is not None

    def dequantizer_of(self, tensor: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that `tensor` comes from, reshaped or not."""
        node = self.producer.get(tensor)
        while node is not None and node.op_type in _SHAPE_OPS:
            node = self.producer.get(node.input[0])
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def quantizers(self) -> Iterator[onnx.NodeProto]:
        """Yield each Q, and each DQ that reads none: what a pair has in common is said of its Q."""
        for node in self.of(QUANTIZE, DEQUANTIZE):
            if node.op_type == QUANTIZE or not self.comes_from(node.input[0], QUANTIZE):
                yield node

    @cached_property
    def _values(self) -> dict[str, Array]:
        return {}

    def constant(self, tensor: str) -> Array | None:
        """Return the values of an initializer or Constant node, None of anything else."""
        proto = self.held(tensor)
        if proto is not None and tensor not in self._values:
            self._values[tensor] = self._read(proto)
        return self._values.get(tensor)

    def _read(self, proto: onnx.TensorProto) -> Array:
        placed = copied(proto)
        if is_on_disk(placed):
            point_into([placed], self.folder)
        return array_of(placed)

    def type_of(self, tensor: str) -> int:
        """Return the element type of a tensor (`onnx.TensorProto.DataType`), 0 where unknown."""
        proto = self.held(tensor)
        if proto is not None:
            return int(proto.data_type)
        made_by = self.producer.get(tensor)
        if made_by is not None and made_by.op_type == DEQUANTIZE and len(made_by.input) > 1:
            # opset 23 lets an attribute say otherwise; before, the scale's type is the output's
            return int(attributes(made_by).get("output_dtype", 0)) or self.type_of(made_by.input[1])
        return self.types.get(tensor, 0)


def type_name(data_type: int) -> str:
    return onnx.TensorProto.DataType.Name(data_type) if data_type else "unknown"


def scale_of(node: onnx.NodeProto) -> str:
    """Return the name of a Q's or DQ's scale."""
    return node.input[1] if len(node.input) > 1 else ""


def zero_point_of(node: onnx.NodeProto) -> str:
    """Return the name of a Q's or DQ's zero point, '' where it has none."""
    return node.input[2] if len(node.input) > 2 else ""

"""A Q/DQ graph, looked up: who makes and reads a tensor, its type and shape, its constant values.

Weights stay on the disk. A constant is read when a rule asks for it, which is for scales and zero
points alone, so models of any size are read in the memory their graph takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx

from qgraph._graph.edit.names import ensure_names
from qgraph._graph.io.models import read_model
from qgraph._graph.io.weights import array_of, is_on_disk, point_into
from qgraph._graph.tensors import Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
_SHAPE_OPS = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_DEFAULT_DOMAINS = ("", "ai.onnx")


class QdqGraph:
    """`model`: without external data loaded; `folder`: where that lies.

    Nodes without a name of their own get one, the same on every run.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        ensure_names(model)
        self.model = model
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.folder = folder
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._values: dict[str, Array] = {}

    @classmethod
    def read(cls, path: Path) -> QdqGraph:
        """Return the graph in `path`, its weights left on the disk.

        Raises:
            InputError: not an ONNX model, or its external data cannot be used.
        """
        return cls(read_model(path, weights=False), path.parent)

    @cached_property
    def readers(self) -> Mapping[str, list[tuple[onnx.NodeProto, int]]]:
        """Tensor → the nodes that read it, each with the input's position."""
        found: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name:
                    found.setdefault(name, []).append((node, index))
        return found

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The graph's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def is_quantized(self) -> bool:
        """Return whether there is any QuantizeLinear or DequantizeLinear."""
        return any(True for _ in self.of(QUANTIZE, DEQUANTIZE))

    @cached_property
    def opset(self) -> int:
        """The version of the ONNX domain's operators."""
        versions = {item.domain: item.version for item in self.model.opset_import}
        return int(versions.get("", versions.get("ai.onnx", 0)))

    def of(self, *op_types: str) -> Iterator[onnx.NodeProto]:
        """Yield the ONNX nodes of these types, in graph order."""
        return (
            node
            for node in self.nodes
            if node.op_type in op_types and node.domain in _DEFAULT_DOMAINS
        )

    def comes_from(self, tensor: str, *op_types: str) -> bool:
        """Return whether a node of one of these types makes `tensor`."""
        node = self.producer.get(tensor)
        return node is not None and node.op_type in op_types

    def is_dequantized(self, tensor: str) -> bool:
        """Return whether `tensor` comes from a DequantizeLinear, reshaped or not."""
        return self.dequantizer_of(tensor) is not None

    def dequantizer_of(self, tensor: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that `tensor` comes from, reshaped or not."""
        node = self.producer.get(tensor)
        while node is not None and node.op_type in _SHAPE_OPS:
            node = self.producer.get(node.input[0])
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def is_constant(self, tensor: str) -> bool:
        """Return whether `tensor` is an initializer, or what follows from one without inputs."""
        if tensor in self.initializers:
            return True
        node = self.producer.get(tensor)
        if node is None:
            return False
        if node.op_type == "Constant":
            return True
        through = (*_SHAPE_OPS, "Cast", QUANTIZE, DEQUANTIZE)
        return node.op_type in through and self.is_constant(node.input[0])

    def constant(self, tensor: str) -> Array | None:
        """Return the values of an initializer or Constant node, None for anything else."""
        if tensor not in self._values:
            proto = self._tensor_proto(tensor)
            if proto is None:
                return None
            self._values[tensor] = self._read(proto)
        return self._values[tensor]

    def _tensor_proto(self, tensor: str) -> onnx.TensorProto | None:
        known: onnx.TensorProto | None = self.initializers.get(tensor)
        if known is not None:
            return known
        node = self.producer.get(tensor)
        if node is None or node.op_type != "Constant":
            return None
        value = attributes(node).get("value")
        return value if isinstance(value, onnx.TensorProto) else None

    def _read(self, proto: onnx.TensorProto) -> Array:
        placed = onnx.TensorProto()
        placed.CopyFrom(proto)
        if is_on_disk(placed):
            point_into([placed], self.folder)
        return array_of(placed)

    @cached_property
    def _types(self) -> Mapping[str, onnx.TypeProto.Tensor]:
        graph = self.model.graph
        declared = (*graph.input, *graph.output, *graph.value_info, *self._inferred())
        found: dict[str, onnx.TypeProto.Tensor] = {}
        for value in declared:
            if value.type.HasField("tensor_type"):
                found[value.name] = value.type.tensor_type
        return found

    def _inferred(self) -> list[onnx.ValueInfoProto]:
        try:
            model = onnx.shape_inference.infer_shapes(self.model)
        except Exception:  # a graph that inference gives up on is still one to be linted
            return []
        return list(model.graph.value_info)

    def type_of(self, tensor: str) -> int:
        """Return the element type of a tensor (`onnx.TensorProto.DataType`), 0 where unknown."""
        proto = self._tensor_proto(tensor)
        if proto is not None:
            return int(proto.data_type)
        made_by = self.producer.get(tensor)
        if made_by is not None and made_by.op_type == DEQUANTIZE and len(made_by.input) > 1:
            # opset 23 lets an attribute say otherwise; before, the scale's type is the output's
            return int(attributes(made_by).get("output_dtype", 0)) or self.type_of(made_by.input[1])
        known = self._types.get(tensor)
        return int(known.elem_type) if known is not None else 0

    def shape_of(self, tensor: str) -> tuple[int | None, ...] | None:
        """Return a tensor's sizes, None for dynamic ones; None where not even the rank is known."""
        proto = self._tensor_proto(tensor)
        if proto is not None:
            return tuple(proto.dims)
        known = self._types.get(tensor)
        if known is None or not known.HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in known.shape.dim
        )


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def type_name(data_type: int) -> str:
    """Return ONNX's name of an element type."""
    return onnx.TensorProto.DataType.Name(data_type) if data_type else "unknown"


def scale_of(node: onnx.NodeProto) -> str:
    """Return the name of a Q's or DQ's scale."""
    return node.input[1] if len(node.input) > 1 else ""


def zero_point_of(node: onnx.NodeProto) -> str:
    """Return the name of a Q's or DQ's zero point, '' where it has none."""
    return node.input[2] if len(node.input) > 2 else ""

"""Writing fake quantization into a graph: what quantized nodes read, or all that computes them.

What a node reads is replaced input by input, so that another node, or another input of the same
node, that reads the same tensor keeps the untouched one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from qgraph._graph.bodies import copied, tensor_names
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.integer_products import (
    ZERO,
    IntegerWeight,
    integer_product,
    takes_integers,
)
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import QuantizableNode, Weight
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.rescaling import hadamard
from qgraph._graph.io.weights import stub
from qgraph._graph.tensors import Array, OnDemand


def scale_of(activation: str) -> str:
    """Return what the scale of an activation is called among `FakeQuantizer.names`."""
    return f"{activation}/scale"


def product_of(activation: str) -> str:
    """Return what the vector that an activation is multiplied by is called there."""
    return f"{activation}/product"


def rotation_of(activation: str) -> str:
    """Return what says whether an activation is rotated is called there."""
    return f"{activation}/rotated"


Origin = tuple[str | None, str]
"""The node that is quantized to something else, None for all others; and the activation."""


def scales_by(names: Mapping[str, Origin], made: FakeQuantization) -> dict[str, Array]:
    """Return initializer → scale, as `made` says. `names`: see `FakeQuantizer.scales`."""
    return {
        name: (made if node is None else made.others[node]).scales[activation]
        for name, (node, activation) in names.items()
    }


def declare_scales(graph: onnx.GraphProto, names: Container[str]) -> None:
    """Let initializers be fed, too: where they are not, they are what they were made with."""
    graph.input.extend(
        helper.make_tensor_value_info(item.name, item.data_type, item.dims)
        for item in graph.initializer
        if item.name in names
    )


def weight_of(tensor: str, axis: int | None) -> str:
    """Return what a quantized weight is called there."""
    return f"{tensor}/axis.{axis}"


def integers_of(tensor: str, axis: int | None) -> tuple[str, str]:
    """Return what its whole numbers and their scale are called there."""
    return f"{tensor}/axis.{axis}/int8", f"{tensor}/axis.{axis}/scales"


class FakeQuantizer:
    """Adds to `graph` what quantized nodes read; initializers are made once and shared.

    `weights`: the values of the weights added, which the graph only declares; `scales`: the
    initializers added that hold scales → whose. `tag`: what names
    end in, where another adds to the same graph; `first`: that other, whose weights are taken where
    both quantize to the same.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        quantization: FakeQuantization,
        tag: str = "",
        first: FakeQuantizer | None = None,
        *,
        integers: bool = False,
    ) -> None:
        self._graph, self._tag, self._integers = graph, tag, integers
        self.quantization: FakeQuantization = quantization
        same = first is not None and first.quantization.weights is quantization.weights
        self._first = first if same else None
        self._taken = tensor_names(graph)
        self._made: dict[str, str] = {}
        self._weights: dict[str, Callable[[], Array]] = {}
        self.weights: Mapping[str, Array] = OnDemand(self._weights)
        self.scales: dict[str, Origin] = {}
        self._owner: str | None = None
        self._others: dict[int, FakeQuantizer] = {}

    def _of(self, node: QuantizableNode) -> FakeQuantizer:
        """Return what quantizes a node: this, or one for what it is quantized to instead."""
        own = self.quantization.others.get(node.name)
        if own is None:
            return self
        if id(own) not in self._others:
            tag = f"{self._tag}/other.{len(self._others)}"
            made = FakeQuantizer(self._graph, own, tag, integers=self._integers)
            self._others[id(own)] = made
            made._weights, made.scales, made._owner = self._weights, self.scales, node.name
        return self._others[id(own)]

    @property
    def names(self) -> Mapping[str, str]:
        """Return what was added → the name of its initializer: `scale_of`, `product_of` an
        activation, `weight_of` or `integers_of` a tensor and axis.
        """
        return self._made

    def data_type(self, node: QuantizableNode) -> int:
        """Return the ONNX data type that `node` computes in: that of its scales."""
        scale = self._of(node).quantization.scales[node.activations[0][1]]
        return int(helper.np_dtype_to_tensor_dtype(scale.dtype))

    def quantized(
        self, proto: onnx.NodeProto, node: QuantizableNode
    ) -> tuple[list[onnx.NodeProto], str]:
        """Return what computes a node with its inputs quantized, and the name of its output."""
        if (own := self._of(node)) is not self:
            return own.quantized(proto, node)
        made = self.fresh(f"{node.output}/quantized")
        weight = self._integer_weight(node) if self._integers else None
        if weight is not None:
            return self._integer_product(proto.name, node.activations[0][1], weight, made), made
        pairs, rename = self.inputs_of(proto, node)
        copy = copied(proto)
        copy.name = self.fresh(f"{proto.name}/quantized")
        copy.input[:] = [rename.get(index, name) for index, name in enumerate(proto.input)]
        copy.output[:] = [made]
        return [*pairs, copy], made

    def inputs_of(
        self, proto: onnx.NodeProto, node: QuantizableNode
    ) -> tuple[list[onnx.NodeProto], dict[int, str]]:
        """Return Q and DQ of every activation, and input position → what replaces it."""
        if (own := self._of(node)) is not self:
            return own.inputs_of(proto, node)
        rename: dict[int, str] = {}
        if node.weight is not None:
            rename[node.weight.index] = self.weight(node.weight, self.data_type(node))
        pairs: list[onnx.NodeProto] = []
        if self.quantization.weights_only:
            return pairs, rename
        for name in dict.fromkeys(name for _, name in node.activations):
            scale = self._scale(name)
            zero = self._initializer("qgraph.zero_point", np.zeros((), self.quantization.dtype))
            q, dq = (self.fresh(f"{proto.name}/{name}/{tag}") for tag in ("q", "dq"))
            before, read = self._changed(proto.name, name)
            pairs += [
                *before,
                helper.make_node("QuantizeLinear", [read, scale, zero], [q]),
                helper.make_node("DequantizeLinear", [q, scale, zero], [dq]),
            ]
            rename |= {index: dq for index, own in node.activations if own == name}
        return pairs, rename

    def _changed(self, node: str, name: str) -> tuple[list[onnx.NodeProto], str]:
        """Return what is done to an activation before it is quantized, and what comes of it."""
        made: list[onnx.NodeProto] = []
        read = name
        if name in self.quantization.products:
            factors = self._initializer(product_of(name), self.quantization.products[name])
            read = self.fresh(f"{node}/{name}/multiplied")
            made.append(helper.make_node("Mul", [name, factors], [read]))
        if name in self.quantization.rotations:
            block, turned = self.quantization.rotations[name]
            switch = self._initializer(rotation_of(name), np.asarray(turned))
            left, rotated = read, self.fresh(f"{node}/{name}/rotated")
            branches = self._rotation(rotated, left, block, self.quantization.scales[name].dtype)
            made.append(helper.make_node("If", [switch], [rotated], **branches))
            read = rotated
        return made, read

    def _rotation(
        self, tag: str, name: str, block: int, dtype: np.dtype[Any]
    ) -> dict[str, onnx.GraphProto]:
        """Return branches that multiply each `block` channels of the last axis, or leave them."""
        matrix = self._initializer(f"qgraph.hadamard.{block}", hadamard(block).astype(dtype))
        rows = self._initializer(f"qgraph.blocks.{block}", np.array([-1, block]))
        data_type = int(helper.np_dtype_to_tensor_dtype(dtype))
        ends = ("shape", "blocks", "turned", "then", "else")
        names = [self.fresh(f"{tag}/{own}") for own in ends]
        shape, blocks, turned, then, other = names
        nodes = [
            helper.make_node("Shape", [name], [shape]),
            helper.make_node("Reshape", [name, rows], [blocks]),
            helper.make_node("MatMul", [blocks, matrix], [turned]),
            helper.make_node("Reshape", [turned, shape], [then]),
        ]
        kept = [helper.make_node("Identity", [name], [other])]
        return {
            key: helper.make_graph(
                made, end, [], [helper.make_tensor_value_info(end, data_type, None)]
            )
            for key, made, end in (("then_branch", nodes, then), ("else_branch", kept, other))
        }

    def fresh(self, wanted: str) -> str:
        return fresh_name(f"{wanted}{self._tag}", self._taken)

    def weight(self, weight: Weight, data_type: int) -> str:
        """Return the name of a weight's quantized copy, which is added where it is not there."""
        if self._first is not None:
            return self._first.weight(weight, data_type)
        label = weight_of(weight.tensor, weight.axis)
        if label not in self._made:
            key = (weight.tensor, weight.axis)
            self._declare(label, data_type, weight.shape, lambda: self.quantization.weights[key])
        return self._made[label]

    def _integer_weight(self, node: QuantizableNode) -> Weight | None:
        """Return the weight of a node that whole numbers can compute, None where they cannot."""
        own, weight = self.quantization, node.weight
        if weight is None or (weight.tensor, weight.axis) not in own.integers:
            return None
        single = self.data_type(node) == onnx.TensorProto.FLOAT
        whole = single and own.dtype == np.int8 and not own.weights_only
        return weight if whole and takes_integers(node) else None

    def _integer_product(
        self, node: str, activation: str, weight: Weight, made: str
    ) -> list[onnx.NodeProto]:
        """Return nodes that make `made` of a node's quantized operands, in whole numbers."""
        before, read = self._changed(node, activation)
        scale = self._scale(activation)
        zero = self._initializer("qgraph.zero_point/uint8", ZERO)
        return [*before, *integer_product(read, scale, zero, self.whole_numbers(weight), made)]

    def whole_numbers(self, weight: Weight) -> tuple[str, str]:
        """Return the names of a weight's whole numbers and their scale."""
        if self._first is not None:
            return self._first.whole_numbers(weight)
        names = integers_of(weight.tensor, weight.axis)
        if names[0] not in self._made:
            key = (weight.tensor, weight.axis)
            made = IntegerWeight(lambda: self.quantization.integers[key])
            along = () if weight.axis is None else (weight.shape[weight.axis],)
            self._declare(names[0], onnx.TensorProto.INT8, weight.shape, made.values)
            self._declare(names[1], onnx.TensorProto.FLOAT, along, made.scale)
        return self._made[names[0]], self._made[names[1]]

    def _declare(
        self, key: str, data_type: int, shape: Sequence[int], make: Callable[[], Array]
    ) -> None:
        """Add an initializer whose values are made when they are asked for."""
        name = self._made[key] = self.fresh(f"{key}/qgraph")
        self._graph.initializer.append(stub(name, data_type, shape))
        self._weights[name] = make

    def _scale(self, activation: str) -> str:
        scale = self._initializer(scale_of(activation), self.quantization.scales[activation])
        self.scales[scale] = self._owner, activation
        return scale

    def _initializer(self, key: str, array: Array) -> str:
        if key not in self._made:
            name = self.fresh(f"{key}/qgraph")
            self._graph.initializer.append(tensor_from(name, array))
            self._made[key] = name
        return self._made[key]

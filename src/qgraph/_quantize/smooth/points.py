"""Where a model can be smoothed: activations that linears and convolutions read, and who can absorb
the factors.

SmoothQuant (Xiao et al., 2023, eq. 3): Y = (X diag(s)⁻¹)(diag(s) W). The readers' weights take
diag(s); diag(s)⁻¹ goes into whatever makes X, found by structure, never by name:

1. a product with a constant vector (the weight of an RMSNorm, however it was exported), a
   LayerNormalization or RMSNormalization operator takes it into its weight (and bias);
2. a linear, a convolution takes it into its output channels (for convolutions this is the
   cross-layer equalization of Nagel et al., 2019, section 4.1);
3. a product of two activations hands it to the factor that can take it (`up_proj` of a gated MLP);
4. a sum with a constant vector, a Relu, a Cast, a pooling hands it on. A SiLU does not: s·σ(x) is
   not σ(s·x);
5. attention hands it on to the projection of its values, where no cache is in between.

Every tensor on the way must have no other reader. Where nothing absorbs, or others read X too, an
explicit Mul is put before the readers.

A rotation (QuaRot, Ashkboos et al., 2024) is taken by the projection of attention's values alone,
head by head; elsewhere an explicit product is put before the readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.index import FLOATS, GraphIndex, attributes
from qgraph._quantize.smooth.attention import values_of
from qgraph._quantize.smooth.layers import Along, Heads, Operand, ScaledLayer, layer_of

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_HOMOGENEOUS = ("Cast", "Identity", "Relu", "LeakyRelu")
_POOLINGS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_SHAPE_ONLY = ("Shape", "Size")


@dataclass(frozen=True, slots=True)
class SmoothPoint:
    """`tensor` [..., channels, `spatial` axes] is divided by the factors, one per channel.
    `readers`: weights that are multiplied, those of `quantized` nodes and of floats that read the
    tensor too; `absorbers`: operands that are divided. Without absorbers a Mul is put before the
    readers. `rank`: axes of the tensor, 0 where they are not known. `turns`: whether the absorbers
    take a rotation of each head, too.
    """

    tensor: str
    channels: int
    spatial: int
    quantized: tuple[str, ...]
    readers: tuple[Operand, ...]
    absorbers: tuple[Operand, ...]
    rank: int = 0
    turns: bool = False

    def block(self, most: int) -> int:
        """Return the channels of the largest block that divides them and can be rotated: a power of
        two up to `most`; 1 where none can.
        """
        if self.spatial or not (self.turns or self.rank):
            return 1
        channels = self.heads.size if self.turns and self.heads else self.channels
        return min(channels & -channels, 1 << (most.bit_length() - 1))

    @property
    def heads(self) -> Heads | None:
        """Return which channels must have the same factor, where attention absorbs them."""
        return next((operand.heads for operand in self.absorbers if operand.heads), None)


def find_points(
    model: onnx.ModelProto, candidates: Sequence[QuantizableNode]
) -> tuple[SmoothPoint, ...]:
    """Return the points of a prepared model, in graph order."""
    graph = _Graph(model)
    by_tensor: dict[str, list[str]] = defaultdict(list)
    for node in candidates:
        if node.name in graph.layers and not graph.is_picture(node.activations[0][1], node.name):
            by_tensor[node.activations[0][1]].append(node.name)
    return tuple(_point(graph, tensor, names) for tensor, names in by_tensor.items())


def _point(graph: _Graph, tensor: str, candidates: Sequence[str]) -> SmoothPoint:
    along = graph.layers[candidates[0]].along
    names = [name for name in candidates if graph.layers[name].along == along]
    others = graph.reading_values(tensor) - set(names)
    readers = [graph.layers[name].operand for name in names]
    absorbers: list[Operand] | None = None
    # a float layer that reads the same tensor can be given the factors as well
    if tensor not in graph.outputs and all(graph.reads_as_data(n, tensor, along) for n in others):
        absorbers = graph.absorbers(tensor, along)
    if absorbers is not None:
        readers += [graph.layers[name].operand for name in sorted(others)]
    return SmoothPoint(
        tensor, along.channels, along.spatial, tuple(names), tuple(readers), tuple(absorbers or ()),
        graph.rank_of(tensor), graph.turns(absorbers or ()),
    )  # fmt: skip


class _Graph(GraphIndex):
    """The graph, looked up, with its layers."""

    @cached_property
    def layers(self) -> Mapping[str, ScaledLayer]:
        """Name → the layer that a linear or convolution is, where it is one."""
        nodes = quantizable_nodes(self.model)[0]
        found = {node.name: layer_of(self.by_name[node.name], node) for node in nodes}
        return {name: layer for name, layer in found.items() if layer is not None}

    def reading_values(self, tensor: str) -> set[str]:
        """Return the nodes that read more of `tensor` than its shape."""
        return {node.name for node in self.readers(tensor) if node.op_type not in _SHAPE_ONLY}

    def is_picture(self, tensor: str, name: str) -> bool:
        """Return whether a convolution reads an input of the model: of a picture, the channels are
        as large as each other.
        """
        return tensor in self.inputs and self.layers[name].along.spatial > 0

    def reads_as_data(self, name: str, tensor: str, along: Along) -> bool:
        """Return whether a node is a layer that reads `tensor` as its data and nowhere else."""
        inputs = list(self.by_name[name].input)
        alone = name in self.layers and inputs[0] == tensor and inputs.count(tensor) == 1
        return alone and self.layers[name].along == along

    def absorbers(self, tensor: str, along: Along) -> list[Operand] | None:
        """Return the operands to divide so that `tensor` comes out divided; None if none can."""
        node = self.producer.get(tensor)
        if node is None or len([name for name in node.output if name]) != 1:
            return None
        if node.name in self.layers:
            return self._layer(node, along)
        if node.op_type == "Cast" and self.types.get(node.input[0]) not in FLOATS:
            return None  # what whole numbers are made of is not known to be in proportion
        if node.op_type in _HOMOGENEOUS or (along.spatial and node.op_type in _POOLINGS):
            return self._through(node, 0, along)
        if node.op_type in _NORMS:
            return self._norm(node, along)
        ways = {"Mul": self._product, "Add": self._sum, "Reshape": self._attention}
        return ways[node.op_type](node, along) if node.op_type in ways else None

    def _through(self, node: onnx.NodeProto, index: int, along: Along) -> list[Operand] | None:
        """Ask what makes an input of `node`, if `node` alone reads it, once."""
        return self.absorbers(node.input[index], along) if self._is_alone(node, index) else None

    def _is_alone(self, node: onnx.NodeProto, index: int) -> bool:
        tensor = node.input[index]
        alone = self.reading_values(tensor) == {node.name} and list(node.input).count(tensor) == 1
        return alone and tensor not in self.outputs

    def _above(self, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
        return self.producer.get(node.input[index]) if self._is_alone(node, index) else None

    def _attention(self, node: onnx.NodeProto, along: Along) -> list[Operand] | None:
        found = values_of(node, along.channels, self._above, self)
        if along.spatial or found is None:
            return None
        split, possible = found
        for heads in possible:
            operands = self._through(split, 0, Along(heads.kv * heads.size, 0))
            if operands is not None:
                return [replace(operand, heads=heads) for operand in operands]
        return None

    def turns(self, absorbers: Sequence[Operand]) -> bool:
        """Return whether these are a linear that attention's values come from as they are, and its
        bias.
        """
        linear = next((item for item in absorbers if item.heads and item.node in self.layers), None)
        if linear is None:
            return False
        (reader,) = self.reading_values(self.by_name[linear.node].output[0])
        if self.by_name[reader].op_type == "Add":
            (reader,) = self.reading_values(self.by_name[reader].output[0])
        return self.by_name[reader].op_type == "Reshape"

    def _norm(self, node: onnx.NodeProto, along: Along) -> list[Operand] | None:
        if along.spatial or attributes(node).get("axis", -1) != -1:
            return None
        operands = [self._vector(node, i, along) for i in range(1, len(node.input))]
        found = [operand for operand in operands if operand is not None]
        return found if found and len(found) == len(operands) else None

    def _product(self, node: onnx.NodeProto, along: Along) -> list[Operand] | None:
        for index in (0, 1):
            operand = self._vector(node, index, along)
            if operand is not None:
                return [operand]
        for index in (0, 1):
            found = self._through(node, index, along)
            if found is not None:
                return found
        return None

    def _sum(self, node: onnx.NodeProto, along: Along) -> list[Operand] | None:
        for index in (0, 1):
            operand = self._vector(node, index, along)
            found = self._through(node, 1 - index, along) if operand else None
            if operand is not None and found is not None:
                return [operand, *found]
        return None

    def _layer(self, node: onnx.NodeProto, along: Along) -> list[Operand] | None:
        layer = self.layers[node.name]
        if layer.makes != along:
            return None
        found = [Operand(node.name, layer.operand.index, layer.channel_axis)]
        if len(node.input) > 2 and node.input[2]:
            # a bias has no spatial axes, of a convolution neither
            bias = self._vector(node, 2, Along(along.channels, 0))
            if bias is None:
                return None
            found.append(bias)
        return found

    def _vector(self, node: onnx.NodeProto, index: int, along: Along) -> Operand | None:
        """Return an operand that is constant and differs along the channels only."""
        tensor = self.initializers.get(node.input[index])
        shape = () if tensor is None else tuple(tensor.dims)
        if len(shape) <= along.spatial or along.channels == 1:
            return None
        axis = len(shape) - 1 - along.spatial
        alone = {size for i, size in enumerate(shape) if i != axis} <= {1}
        return Operand(node.name, index, axis) if alone and shape[axis] == along.channels else None

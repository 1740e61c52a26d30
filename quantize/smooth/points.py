"""Where a model can be smoothed: activations that linears read, and who can absorb the factors.

SmoothQuant (Xiao et al., 2023, eq. 3): Y = (X diag(s)⁻¹)(diag(s) W). The readers' weights take
diag(s); diag(s)⁻¹ goes into whatever makes X, found by structure, never by name:

1. a product with a constant vector (the weight of an RMSNorm, however it was exported), a
   LayerNormalization or RMSNormalization operator takes it into its weight (and bias);
2. a linear takes it into its output channels;
3. a product of two activations hands it to the factor that can take it (`up_proj` of a gated MLP);
4. a sum with a constant vector, a Relu, a Cast hands it on.

Every tensor on the way must have no other reader. Where nothing absorbs, or others read X too, an
explicit Mul is put before the readers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from graph.edit.nodes import QuantizableNode, quantizable_nodes

_LINEAR = ("MatMul", "Gemm")
_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_HOMOGENEOUS = ("Cast", "Identity", "Relu", "LeakyRelu")
_SHAPE_ONLY = ("Shape", "Size")


@dataclass(frozen=True, slots=True)
class Operand:
    """A constant operand of a node: input `index` of `node`, its channels along `axis`."""

    node: str
    index: int
    axis: int


@dataclass(frozen=True, slots=True)
class SmoothPoint:
    """`tensor` [..., channels] is divided by the factors, one per channel. `readers`: weights that
    are multiplied, those of `quantized` nodes and of floats that read the tensor too; `absorbers`:
    operands that are divided. Without absorbers a Mul is put before the readers.
    """

    tensor: str
    channels: int
    quantized: tuple[str, ...]
    readers: tuple[Operand, ...]
    absorbers: tuple[Operand, ...]


def find_points(
    model: onnx.ModelProto, candidates: Sequence[QuantizableNode]
) -> tuple[SmoothPoint, ...]:
    """Return the points of a prepared model, in graph order; only linears are smoothed."""
    graph = _Graph(model)
    by_tensor: dict[str, list[QuantizableNode]] = defaultdict(list)
    for node in candidates:
        if node.name in graph.linears:
            by_tensor[node.activations[0][1]].append(node)
    return tuple(_point(graph, tensor, nodes) for tensor, nodes in by_tensor.items())


def _point(graph: _Graph, tensor: str, nodes: Sequence[QuantizableNode]) -> SmoothPoint:
    names = [node.name for node in nodes]
    channels = graph.linears[names[0]].channels
    others = graph.readers(tensor) - set(names)
    readers = [graph.linears[name].operand for name in names]
    absorbers: list[Operand] | None = None
    # a float linear that reads the same tensor can be given the factors as well
    if tensor not in graph.outputs and all(graph.reads_as_data(n, tensor) for n in others):
        absorbers = graph.absorbers(tensor, channels)
    if absorbers is not None:
        readers += [graph.linears[name].operand for name in sorted(others)]
    return SmoothPoint(tensor, channels, tuple(names), tuple(readers), tuple(absorbers or ()))


@dataclass(frozen=True, slots=True)
class _Linear:
    operand: Operand
    channels: int
    outputs: int


class _Graph:
    """The graph, looked up."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = {node.name: node for node in model.graph.node}
        self._producer = {name: node for node in model.graph.node for name in node.output if name}
        self._constants = {item.name: tuple(item.dims) for item in model.graph.initializer}
        self._readers: dict[str, set[str]] = defaultdict(set)
        for node in model.graph.node:
            reads = set(node.input) | _outer_reads(node)
            for name in reads if node.op_type not in _SHAPE_ONLY else ():
                self._readers[name].add(node.name)
        self.outputs = {value.name for value in model.graph.output}
        self.linears = dict(self._linears(model))

    def _linears(self, model: onnx.ModelProto) -> Iterable[tuple[str, _Linear]]:
        for node in quantizable_nodes(model)[0]:
            if node.op_type not in _LINEAR or node.weight is None or node.weight.axis is None:
                continue
            if _attribute(self._nodes[node.name], "transA"):
                continue
            axis = 1 - node.weight.axis
            operand = Operand(node.name, node.weight.index, axis)
            yield node.name, _Linear(operand, node.weight.shape[axis], node.weight.shape[1 - axis])

    def readers(self, tensor: str) -> set[str]:
        """Return the nodes that read the values of `tensor`."""
        return self._readers[tensor]

    def reads_as_data(self, name: str, tensor: str) -> bool:
        """Return whether a node is a linear that reads `tensor` as its data and nowhere else."""
        inputs = list(self._nodes[name].input)
        return name in self.linears and inputs[0] == tensor and inputs.count(tensor) == 1

    def absorbers(self, tensor: str, channels: int) -> list[Operand] | None:
        """Return the operands to divide so that `tensor` comes out divided; None if none can."""
        node = self._producer.get(tensor)
        if node is None or len([name for name in node.output if name]) != 1:
            return None
        if node.name in self.linears:
            return self._linear(node, channels)
        if node.op_type in _HOMOGENEOUS:
            return self._through(node, 0, channels)
        if node.op_type in _NORMS:
            return self._norm(node, channels)
        ways = {"Mul": self._product, "Add": self._sum}
        return ways[node.op_type](node, channels) if node.op_type in ways else None

    def _through(self, node: onnx.NodeProto, index: int, channels: int) -> list[Operand] | None:
        """Ask what makes an input of `node`, if `node` alone reads it, once."""
        tensor = node.input[index]
        alone = self._readers[tensor] == {node.name} and list(node.input).count(tensor) == 1
        if not alone or tensor in self.outputs:
            return None
        return self.absorbers(tensor, channels)

    def _norm(self, node: onnx.NodeProto, channels: int) -> list[Operand] | None:
        if _attribute(node, "axis", -1) != -1:
            return None
        operands = [self._vector(node, i, channels) for i in range(1, len(node.input))]
        found = [operand for operand in operands if operand is not None]
        return found if found and len(found) == len(operands) else None

    def _product(self, node: onnx.NodeProto, channels: int) -> list[Operand] | None:
        for index in (0, 1):
            operand = self._vector(node, index, channels)
            if operand is not None:
                return [operand]
        for index in (0, 1):
            found = self._through(node, index, channels)
            if found is not None:
                return found
        return None

    def _sum(self, node: onnx.NodeProto, channels: int) -> list[Operand] | None:
        for index in (0, 1):
            operand = self._vector(node, index, channels)
            found = self._through(node, 1 - index, channels) if operand else None
            if operand is not None and found is not None:
                return [operand, *found]
        return None

    def _linear(self, node: onnx.NodeProto, channels: int) -> list[Operand] | None:
        linear = self.linears[node.name]
        if linear.outputs != channels:
            return None
        found = [Operand(node.name, linear.operand.index, 1 - linear.operand.axis)]
        if len(node.input) > 2 and node.input[2]:
            bias = self._vector(node, 2, channels)
            if bias is None:
                return None
            found.append(bias)
        return found

    def _vector(self, node: onnx.NodeProto, index: int, channels: int) -> Operand | None:
        """Return an operand that is constant and differs along the last axis only."""
        shape = self._constants.get(node.input[index])
        if shape is None or not shape or shape[-1] != channels or channels == 1:
            return None
        return Operand(node.name, index, len(shape) - 1) if set(shape[:-1]) <= {1} else None


def _attribute(node: onnx.NodeProto, name: str, otherwise: int = 0) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), otherwise)


def _outer_reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that the bodies of an If, Loop or Scan read from outside."""
    bodies = [body for item in node.attribute for body in (item.g, *item.graphs)]
    inside = [inner for body in bodies for inner in body.node]
    return {name for inner in inside for name in (*inner.input, *_outer_reads(inner))}

"""The nodes that can be computed in INT8, and what they read.

| op             | weight `W`              | scale per-axis on |
|----------------|-------------------------|-------------------|
| MatMul         | [K, N]                  | 1                 |
| Gemm           | [K, N] / [N, K]         | 1 / 0 (transB)    |
| Conv           | [M, C/g, k…]            | 0                 |
| ConvTranspose  | [C, M/g, k…]            | 1 (g = 1)         |
| MatMul, no `W` | activation × activation | –                 |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from qgraph._graph.edit.macs import RECURRENT, costly_inside, multiplies
from qgraph._graph.edit.names import scope_of
from qgraph._graph.errors import InputError
from qgraph._graph.index import ONNX, GraphIndex, attributes
from qgraph._graph.io.rescaling import is_rotation
from qgraph._graph.io.weights import array_of, is_on_disk
from qgraph._graph.keep import Keep

CONVOLUTIONS = ("Conv", "ConvTranspose")
MATMULS = ("MatMul", "Gemm")
GEMMS = (*MATMULS, *CONVOLUTIONS)
ROTATION = "a rotation (--rotate) of what a quantized node reads"
"""Why a product stays float that the model itself does not have."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_WITHOUT_INT8 = {
    **{cell: f"a recurrent cell ({cell}): it has no INT8 kernel" for cell in RECURRENT},
    "DeformConv": "a deformable convolution: it has no INT8 kernel",
    "Einsum": "an Einsum: it has no INT8 kernel; with weights, as a MatMul, it may be a candidate",
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant operand: `axis` counts output channels (None: one scale for all)."""

    tensor: str
    index: int
    axis: int | None
    shape: tuple[int, ...]

    @property
    def params(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class QuantizableNode:
    """A node that can be quantized.

    `activations`: the tensors it reads that are not constant, with their input positions. `scope`:
    the path of the module the exporter made it from.
    """

    name: str
    op_type: str
    activations: tuple[tuple[int, str], ...]
    weight: Weight | None
    output: str
    scope: str = ""


def quantizable_nodes(model: onnx.ModelProto) -> tuple[list[QuantizableNode], list[Keep]]:
    """Return the quantizable nodes of `model` in graph order, and those that are not, with reason:
    what else multiplies, in the bodies of a node too, stands among these.

    A MatMul of two activations is quantizable too; whether it should be is the caller's choice.

    Raises:
        InputError: a node lacks an operand.
    """
    weights = GraphIndex(model).initializers
    found: list[QuantizableNode] = []
    kept: list[Keep] = []
    for node in model.graph.node:
        if node.op_type not in GEMMS or node.domain not in ONNX:
            if multiplies(node) or costly_inside(node):
                kept.append(Keep(node.name, without_int8(node)))
            continue
        result = _examine(node, weights)
        if isinstance(result, Keep):
            kept.append(result)
        else:
            found.append(result)
    return found, kept


def without_int8(node: onnx.NodeProto) -> str:
    """Return why a node that multiplies, and is of no quantizable kind, stays float."""
    inside = Counter(inner.op_type for inner in costly_inside(node))
    if inside:
        found = " and ".join(f"{count} {op_type}" for op_type, count in inside.items())
        return f"{found} in the bodies of this {node.op_type}, which stay float"
    if node.op_type in _WITHOUT_INT8:
        return _WITHOUT_INT8[node.op_type]
    if node.op_type.endswith("Attention"):
        return "a product of activations (attention); INT8 here breaks attention fusion"
    if node.domain == "com.microsoft" and node.op_type.startswith("Fused"):
        return f"a {node.op_type} of onnxruntime's optimizer: before that it may be a candidate"
    return f"{node.op_type} of the domain {node.domain!r}: it has no known INT8 form"


def _examine(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]
) -> QuantizableNode | Keep:
    if len(node.input) < 2 or not all(node.input[:2]):
        raise InputError(
            f"the {node.op_type} lacks one of its two operands",
            where=f"node {node.name!r}",
            hint="The model is damaged; export it again.",
        )
    left, right = node.input[0], node.input[1]
    if left in weights:
        return Keep(node.name, "its constant operand is the left one, which has no INT8 kernel")
    if right not in weights:
        return _without_weight(node)
    tensor = weights[right]
    if tensor.data_type not in FLOATS:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        return Keep(node.name, f"its weight is {name}, expected FLOAT, FLOAT16 or BFLOAT16")
    shape = tuple(tensor.dims)
    if node.op_type == "MatMul" and len(shape) > 2 and 0 not in shape:
        return Keep(node.name, _batched(tensor))
    if 0 in shape or (node.op_type in MATMULS and len(shape) != 2):
        return Keep(node.name, f"its weight has shape {list(shape)}, not a matrix with elements")
    return _with_weight(node, shape)


def _batched(tensor: onnx.TensorProto) -> str:
    """Return why a constant of more than two axes stays float."""
    if not is_on_disk(tensor) and is_rotation(array_of(tensor)):
        return ROTATION
    return (
        f"its weight of shape {list(tensor.dims)} is a matrix for each of"
        f" {math.prod(tensor.dims[:-2])} batches; one scale per channel cannot fit them"
    )


def _without_weight(node: onnx.NodeProto) -> QuantizableNode | Keep:
    if node.op_type != "MatMul":
        return Keep(node.name, "its weight is computed at run time")
    activations = ((0, node.input[0]), (1, node.input[1]))
    return QuantizableNode(
        node.name, node.op_type, activations, None, node.output[0], scope_of(node)
    )


def _with_weight(node: onnx.NodeProto, shape: tuple[int, ...]) -> QuantizableNode:
    weight = Weight(node.input[1], 1, _output_axis(node.op_type, attributes(node)), shape)
    activations = ((0, node.input[0]),)
    return QuantizableNode(
        node.name, node.op_type, activations, weight, node.output[0], scope_of(node)
    )


def _output_axis(op_type: str, settings: Mapping[str, Any]) -> int | None:
    """Return the weight's axis of output channels; None where groups mix them with inputs."""
    match op_type:
        case "Gemm":
            return 0 if settings.get("transB", 0) else 1
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if settings.get("group", 1) == 1 else None
        case _:
            return 1


ATTENTION = "a product of two activations (attention); INT8 here breaks attention fusion"
_NO_ATTENTION = (
    "a product of two activations with no softmax before or behind it, so no attention (as in a"
    " scan over states); --include quantizes it"
)
_MOVES = {
    *("Cast", "Concat", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Split", "Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
    *("Div", "Mul", "Where"),
}
_BEFORE = _MOVES | {"Add", "Clip", "GatherElements", "Max", "Min", "Pad", "Sub", "Tanh"}
"""What stands between a product and a softmax, a mask, a bias and DeBERTa's positions among it;
behind a softmax an Add is another's."""


@dataclass(frozen=True, slots=True)
class Softmaxes:
    """`behind`: tensors that come from a Softmax; `before`: those that go into one, with nothing
    between but what scales, masks, caps and moves values. They tell which products are attention's:
    a scan over states (Mamba) and linear attention have none.
    """

    behind: frozenset[str]
    before: frozenset[str]

    @classmethod
    def of(cls, index: GraphIndex) -> Softmaxes:
        """Return those of a graph in an order that runs."""
        behind, before = set[str](), set[str]()
        for node in index.nodes:
            moves = node.op_type in _MOVES and not behind.isdisjoint(node.input)
            if moves or node.op_type == "Softmax":
                behind.update(node.output)
        for node in reversed(index.nodes):
            moves = node.op_type in _BEFORE and not before.isdisjoint(node.output)
            if moves or node.op_type == "Softmax":
                before.update(node.input)
        return cls(frozenset(behind), frozenset(before))

    def why_float(self, product: onnx.NodeProto) -> str:
        """Return why a product of two activations stays float."""
        apart = self.behind.isdisjoint(product.input) and self.before.isdisjoint(product.output)
        return _NO_ATTENTION if apart else ATTENTION

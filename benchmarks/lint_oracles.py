"""What the linter's rules claim of a model, looked up again with onnx alone.

Each function returns the nodes a rule should name. They share no code with qgraph, and are as plain
as can be: names, initializers and shape inference.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
SHAPES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
QDQ = ("QuantizeLinear", "DequantizeLinear")


class Facts:
    """A model with its lookups."""

    def __init__(self, path: str) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        self.values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = collections.defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {value.name for value in graph.output}
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        declared = (*inferred.value_info, *inferred.input, *inferred.output)
        self.shape = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in declared}
        self.shape |= {name: list(array.shape) for name, array in self.values.items()}

    def of(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of these types."""
        return (node for node in self.nodes if node.op_type in kinds)

    def is_dq(self, name: str, through: tuple[str, ...] = ()) -> bool:
        """Return whether a DequantizeLinear makes a tensor, with nodes `through` in between."""
        node = self.maker.get(name)
        while node is not None and node.op_type in through:
            node = self.maker.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor follows from initializers alone."""
        if name in self.values:
            return True
        node = self.maker.get(name)
        known = (*SHAPES, *QDQ, "Cast", "Constant")
        return node is not None and node.op_type in known and all(map(self.is_constant, node.input))

    def is_int8(self, node: onnx.NodeProto) -> bool:
        """Return whether a GEMM reads Q/DQ on both sides."""
        return all(self.is_dq(name, SHAPES) for name in node.input[:2])

    def is_product(self, node: onnx.NodeProto) -> bool:
        """Return whether a MatMul multiplies activations."""
        return node.op_type == "MatMul" and not any(map(self.is_constant, node.input[:2]))


def asymmetric(facts: Facts) -> set[str]:
    """R2: a zero point that is not zero."""
    return {
        n.name for n in facts.of(*QDQ) if len(n.input) > 2 and facts.values[n.input[2]].any()
    }  # fmt: skip


def unsigned_or_absent(facts: Facts) -> set[str]:
    """R3: a zero point of another type than INT8, or none; int32 is R7's."""
    found = set()
    for node in facts.of(*QDQ):
        given = facts.values.get(node.input[0])
        if given is not None and given.dtype == np.int32:
            continue
        if len(node.input) < 3:
            made_by = facts.maker.get(node.input[0])
            after_q = node.op_type == QDQ[1] and made_by is not None and made_by.op_type == QDQ[0]
            # said once, at the Q, where both mean UINT8
            found |= set() if after_q else {node.name}
        elif facts.values[node.input[2]].dtype != np.int8:
            found.add(node.name)
    return found


def integer_bias(facts: Facts) -> set[str]:
    """R7: a DequantizeLinear of int32."""
    return {
        n.name
        for n in facts.of("DequantizeLinear")
        if n.input[0] in facts.values and facts.values[n.input[0]].dtype == np.int32
    }


def quantized_scalar(facts: Facts) -> set[str]:
    """R8: Q/DQ on a tensor without axes."""
    return {
        n.name
        for n in facts.of(*QDQ)
        if facts.shape.get(n.input[0]) == []
        and facts.maker.get(n.input[0], n).op_type != "QuantizeLinear"
    }


def one_side(facts: Facts) -> set[str]:
    """R10: a GEMM with Q/DQ on one of its inputs."""
    return {
        n.name
        for n in facts.of(*GEMMS)
        if not facts.is_product(n) and len({facts.is_dq(name, SHAPES) for name in n.input[:2]}) == 2
    }


def second_quantizer(facts: Facts) -> set[str]:
    """R11: every QuantizeLinear of a tensor after its first."""
    return {
        n.name
        for name, readers in facts.readers.items()
        for n in [r for r in readers if r.op_type == "QuantizeLinear" and r.input[0] == name][1:]
    }


def quantized_branch(facts: Facts) -> set[str]:
    """R12: an Add of two computed tensors whose GEMM branch is dequantized, where the other input
    is something that the branch was computed from.
    """
    return {
        n.name
        for n in facts.of("Add")
        if not any(map(facts.is_constant, n.input))
        and any(
            facts.is_dq(n.input[deep])
            and _start(facts, n.input[1 - deep]) in _above_gemm(facts, n.input[deep])
            for deep in (0, 1)
        )
    }


def _start(facts: Facts, tensor: str) -> str:
    while tensor in facts.maker and facts.maker[tensor].op_type in (*QDQ, "Relu", "Identity"):
        tensor = facts.maker[tensor].input[0]
    return tensor


def _above_gemm(facts: Facts, tensor: str) -> set[str]:
    """Return what a tensor is computed from through at least one GEMM."""
    found: set[tuple[str, bool]] = set()
    waiting = [(tensor, False)]
    while waiting:
        name, multiplied = waiting.pop()
        if (name, multiplied) in found:
            continue
        found.add((name, multiplied))
        node = facts.maker.get(name)
        if node is not None:
            waiting += [(item, multiplied or node.op_type in GEMMS) for item in node.input]
    return {name for name, multiplied in found if multiplied}


def quantized_product(facts: Facts) -> set[str]:
    """R13: a product of activations that reads Q/DQ, of another shape than fused kernels take."""
    return {
        n.name
        for n in facts.of("MatMul")
        if facts.is_product(n)
        and any(facts.is_dq(name, SHAPES) for name in n.input[:2])
        and not _fits(facts, n)
    }


def _fits(facts: Facts, node: onnx.NodeProto) -> bool:
    left, right = (facts.shape.get(_start(facts, name), []) for name in node.input[:2])
    if len(left) < 2 or len(right) < 2:
        return False
    rows, inner, columns = left[-2], left[-1], right[-1]
    ways = ((inner, rows, columns), (columns, rows, inner))
    return any(h in (16, 32, 64) and 0 < a <= 512 and 0 < b <= 512 for h, a, b in ways)


def small_gemm(facts: Facts) -> set[str]:
    """R17: an INT8 GEMM or convolution with fewer than 16 on a side."""
    found = set()
    for node in facts.of(*GEMMS):
        shape = facts.shape.get(_weight(facts, node.input[1]), [])
        if facts.is_int8(node) and not facts.is_product(node) and len(shape) > 1:
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            sides = shape[:2] if node.op_type in GEMMS[2:] else shape[-2:]
            sides = sides[1:] if group > 1 else sides
            found |= {node.name} if min(sides) < 16 else set()
    return found


def _weight(facts: Facts, name: str) -> str:
    return name if name in facts.shape and any(facts.shape[name]) else _start(facts, name)


def unequal_concat(facts: Facts) -> set[str]:
    """R18: a Concat of DequantizeLinears with different scales."""
    found = set()
    for node in facts.of("Concat"):
        if all(map(facts.is_dq, node.input)):
            scales = {facts.values[facts.maker[n].input[1]].tobytes() for n in node.input}
            found |= {node.name} if len(scales) > 1 else set()
    return found


def fragile(facts: Facts) -> set[str]:
    """R19: a norm, softmax, sigmoid or GELU that reads a DequantizeLinear."""
    kinds = ("Softmax", "LayerNormalization", "Sigmoid", "Erf", "Gelu", "RMSNormalization")
    return {n.name for n in facts.of(*kinds) if facts.is_dq(n.input[0])}


ORACLES: dict[str, Callable[[Facts], set[str]]] = {
    "R2": asymmetric,
    "R3": unsigned_or_absent,
    "R7": integer_bias,
    "R8": quantized_scalar,
    "R10": one_side,
    "R11": second_quantizer,
    "R12": quantized_branch,
    "R13": quantized_product,
    "R17": small_gemm,
    "R18": unequal_concat,
    "R19": fragile,
}
"""Rules that other tools break. R20 and R21 are judgements on the whole graph: left out."""

"""What an engine rounds on the way, as noise in the graph.

On the CPU onnxruntime computes in fp32, half-precision graphs too, and rounds nothing between. An
engine rounds to 11 bits: every result in an fp16 graph, what float products read in an fp32 one
(TF32). Here those tensors are off by as much at random, so that a run shows what it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.bodies import copied, replace_nodes
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.index import HALF
from qgraph._graph.rules.advice import is_int8
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph

STEP = 2.0**-11
"""Half the distance of numbers with 11 bits, as a share of their size."""
_DRAW = ("qgraph/noise/ratio", "qgraph/noise/training")
_FACTORS = ("qgraph/noise/up", "qgraph/noise/down")
"""What draws read, and what they choose between: as large as an error that is even in ±STEP."""
_EXACT = {
    *(QUANTIZE, DEQUANTIZE, "Constant", "Identity", "Cast", "Reshape", "Transpose", "Squeeze"),
    *("Unsqueeze", "Flatten", "Concat", "Slice", "Split", "Gather", "Expand", "Relu", "Neg"),
    *("MaxPool", "Where", "Clip", "Pad", "Tile"),
}
"""Operators that hand on values as they are."""
_DROPOUT_DRAWS = 12
"""The opset from which a Dropout draws; before, it hands on what it reads."""


def with_rounding_noise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in which rounding is noise of the same size, anew in every run."""
    noisy = copied(model)
    graph = QdqGraph(noisy, Path())
    places = {id(node): list(_places(graph, node)) for node in graph.nodes}
    taken = set(graph.producer) | set(graph.initializers)
    nodes: list[onnx.NodeProto] = []
    for node in noisy.graph.node:
        before, after = _around(
            node, places[id(node)], taken, seed=len(nodes) + 1, opset=graph.opset
        )
        nodes += [*before, node, *after]
    replace_nodes(noisy.graph, nodes)
    if graph.opset < _DROPOUT_DRAWS:
        return noisy
    size = STEP / math.sqrt(3)
    values = np.float32(0.5), np.ones((), bool), np.float32(1 + size), np.float32(1 - size)
    noisy.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip((*_DRAW, *_FACTORS), values, strict=True)
    )
    return noisy


def _places(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[tuple[bool, int, int]]:
    """Yield what a node rounds: (is it an output, which, its type)."""
    if node.op_type not in _EXACT:
        for index, name in enumerate(node.output):
            if name and graph.type_of(name) in HALF and name not in graph.outputs:
                yield True, index, graph.type_of(name)
    if node.op_type in GEMMS and not is_int8(graph, node):
        for index, name in enumerate(node.input[:2]):
            if graph.type_of(name) == TensorProto.FLOAT and not graph.is_constant(name):
                yield False, index, TensorProto.FLOAT


def _around(
    node: onnx.NodeProto,
    places: list[tuple[bool, int, int]],
    taken: set[str],
    **drawn: int,
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Return the nodes to put before and after `node`, which is renamed to fit."""
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for is_output, index, kind in places:
        slot = node.output if is_output else node.input
        other = fresh_name(f"{slot[index]}_rounded", taken)
        if is_output:
            after += _noise(other, slot[index], kind, taken, **drawn)
        else:
            before += _noise(slot[index], other, kind, taken, **drawn)
        slot[index] = other
    return before, after


def _noise(
    source: str, target: str, kind: int, taken: set[str], *, seed: int, opset: int
) -> list[onnx.NodeProto]:
    """Return nodes that make `target` of `source`, each value off by a random share."""
    single, factor, off = (
        fresh_name(f"{target}_{what}", taken) for what in ("single", "factor", "off")
    )
    return [
        helper.make_node("Cast", [source], [single], f"{single}/cast", to=TensorProto.FLOAT),
        *_factor(single, factor, taken, seed, opset),
        helper.make_node("Mul", [single, factor], [off], f"{off}/mul"),
        helper.make_node("Cast", [off], [target], f"{target}/cast", to=kind),
    ]


def _factor(like: str, target: str, taken: set[str], seed: int, opset: int) -> list[onnx.NodeProto]:
    """Return nodes that draw what each value is multiplied by. Dropout says which way: onnxruntime
    has no RandomUniformLike from opset 22 on.
    """
    name = f"{target}/random"
    if opset < _DROPOUT_DRAWS:
        draw = helper.make_node(
            "RandomUniformLike", [like], [target], name,
            dtype=TensorProto.FLOAT, low=1 - STEP, high=1 + STEP, seed=float(seed),
        )  # fmt: skip
        return [draw]
    kept, up = (fresh_name(f"{target}_{what}", taken) for what in ("kept", "up"))
    return [
        helper.make_node("Dropout", [like, *_DRAW], [kept, up], name, seed=seed),
        helper.make_node("Where", [up, *_FACTORS], [target], f"{target}/where"),
    ]

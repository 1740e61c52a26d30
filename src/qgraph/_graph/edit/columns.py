"""A product with a matrix that memory does not hold, as one for some of its columns at a time.

No column of x·W depends on another, so a language model's head, which has one for each token it
knows, need not be read, widened and packed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import copied, replace_nodes
from qgraph._graph.index import GraphIndex, attributes
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.weights import LAZY, array_of, stub
from qgraph._graph.tensors import Array, OnDemand

_TYPES = {*LAZY, TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN}
_SINGLE = 4
"""Bytes of a number as a CPU computes it."""


def split_into_columns(model: onnx.ModelProto, most: int) -> OnDemand[str, Array]:
    """Replace, in place, each MatMul with a constant matrix of more than `most` bytes
    as float32, or with one dequantized from it, by products with as many of its columns as that
    holds, and a Concat. Return the values of the new weights, which `model` only declares.
    """
    splitter = _Splitter(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        found = splitter.matrix(node)
        if found is None or _SINGLE * prod(found.weight.dims) <= most:
            nodes.append(node)
        else:
            nodes += splitter.split(node, found, max(1, most // (_SINGLE * found.weight.dims[0])))
    if splitter.makers:
        replace_nodes(model.graph, nodes)
    return OnDemand(splitter.makers)


@dataclass(frozen=True, slots=True, eq=False)
class _Matrix:
    """A constant [rows, columns], and what dequantizes it, column by column or as a whole."""

    weight: TensorProto
    dequantizer: onnx.NodeProto | None


class _Splitter:
    """`makers`: what makes the weights that were declared."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph, self._index = model.graph, GraphIndex(model)
        self._declared: set[str] = set()
        self.makers: dict[str, Callable[[], Array]] = {}

    def matrix(self, node: onnx.NodeProto) -> _Matrix | None:
        """Return the constant matrix that a MatMul multiplies with, None where it has none."""
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
            return None
        name, dequantizer = node.input[1], self._index.producer.get(node.input[1])
        if dequantizer is not None:
            if dequantizer.op_type != "DequantizeLinear" or not self._is_by_column(dequantizer):
                return None
            name = dequantizer.input[0]
        weight = self._index.initializers.get(name)
        if weight is None or len(weight.dims) != 2 or weight.data_type not in _TYPES:
            return None
        return _Matrix(weight, dequantizer)

    def _is_by_column(self, dequantizer: onnx.NodeProto) -> bool:
        given, names = attributes(dequantizer), [name for name in dequantizer.input[1:] if name]
        if given.get("block_size") or not self._index.initializers.keys() >= set(names):
            return False
        ranks = {len(self._index.initializers[name].dims) for name in names}
        return ranks == {0} or (max(ranks) == 1 and given.get("axis", 1) in (1, -1))

    def split(self, node: onnx.NodeProto, matrix: _Matrix, width: int) -> list[onnx.NodeProto]:
        """Return what does the work of `node` with `width` columns at a time."""
        rows, count = matrix.weight.dims
        nodes, made = [], []
        for start in range(0, count, width):
            columns, tag = slice(start, min(start + width, count)), f"columns.{start}"
            factor = f"{matrix.weight.name}/{tag}"
            if factor not in self._declared:
                shape = (rows, columns.stop - start)
                self._graph.initializer.append(stub(factor, matrix.weight.data_type, shape))
                self._declared.add(factor)
                self.makers[factor] = partial(_columns, matrix.weight, columns)
            if matrix.dequantizer is not None:
                nodes.append(self._dequantized(matrix.dequantizer, factor, columns, node.output[0]))
                factor = nodes[-1].output[0]
            made.append(f"{node.output[0]}/{tag}")
            product = [node.input[0], factor]
            nodes.append(helper.make_node("MatMul", product, made[-1:], name=made[-1]))
        name = f"{node.output[0]}/columns"
        return [*nodes, helper.make_node("Concat", made, node.output, name=name, axis=-1)]

    def _dequantized(
        self, dequantizer: onnx.NodeProto, factor: str, columns: slice, reader: str
    ) -> onnx.NodeProto:
        copy = copied(dequantizer)
        copy.input[0] = factor
        copy.name = copy.output[0] = f"{reader}/{dequantizer.output[0]}/columns.{columns.start}"
        for at, name in enumerate(dequantizer.input[1:], start=1):
            # a scale with one element is of the whole matrix, whatever its rank
            if name and prod(self._index.initializers[name].dims) > 1:
                part = copy.input[at] = f"{name}/columns.{columns.start}"
                if part not in self._declared:
                    self._declared.add(part)
                    values = array_of(self._index.initializers[name])[columns]
                    self._graph.initializer.append(tensor_from(part, values))
        return copy


def _columns(weight: TensorProto, columns: slice) -> Array:
    return np.ascontiguousarray(array_of(weight)[:, columns])

"""Rewriting a model with smoothing factors and rotations: operands changed, nodes where nothing
absorbs.

A constant that others read too is left as it is: whoever needs it changed gets a copy. Weights on
the disk stay there and are changed when they are read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from qgraph._graph.bodies import copied, replace_nodes, tensor_names, with_bodies
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.rescaling import (
    hadamard,
    rescale,
    rescale_on_reading,
    rotate,
    rotate_on_reading,
)
from qgraph._graph.io.weights import array_of, is_on_disk
from qgraph._graph.tensors import Array
from qgraph._quantize.smooth.layers import Heads, Operand
from qgraph._quantize.smooth.points import SmoothPoint

_Use = tuple[str, int]
_Change = tuple[int, int, str, Heads | None]
"""Axis, number of the point, what is done (`*`, `/` or `@`), and whose heads share a factor."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is done at a point: its channels are divided by `factors`, float32 [channels], all > 0,
    then each `block` of them is rotated; 1 for none. Products that nothing absorbs stand before the
    readers called `reached`.
    """

    point: SmoothPoint
    factors: Array
    block: int
    reached: tuple[str, ...]

    @property
    def scaled(self) -> Sequence[Operand]:
        return self.point.readers if self.point.absorbers else self._behind_products()

    @property
    def rotated(self) -> Sequence[Operand]:
        if self.point.turns:
            return [*self.point.readers, *self.point.absorbers]
        return self._behind_products()

    def _behind_products(self) -> list[Operand]:
        return [operand for operand in self.point.readers if operand.node in self.reached]


def smooth(prepared: PreparedModel, steps: Sequence[Step]) -> PreparedModel:
    """Return the smoothed model, under the identity of the one it was made from; names stay."""
    model = copied(prepared.model)
    _insert_products(model, steps)
    _change(model, _changes(steps), steps)
    return replace(prepared, model=model)


def _changes(steps: Sequence[Step]) -> dict[_Use, list[_Change]]:
    """Return what happens to each operand, in order."""
    changes: dict[_Use, list[_Change]] = defaultdict(list)

    def note(operands: Sequence[Operand], number: int, done: str) -> None:
        for operand in operands:
            change = (operand.axis, number, done, operand.heads)
            changes[operand.node, operand.index].append(change)

    for number, step in enumerate(steps):
        note(step.scaled, number, "*")
        note(step.point.absorbers, number, "/")
        if step.block > 1:
            note(step.rotated, number, "@")
    return changes


def _change(
    model: onnx.ModelProto, changes: Mapping[_Use, Sequence[_Change]], done: Sequence[Step]
) -> None:
    nodes = {node.name: node for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    left = Counter(name for graph in with_bodies(model.graph) for name in _read_in(graph))
    taken = tensor_names(model.graph)
    groups: dict[tuple[str, tuple[_Change, ...]], list[_Use]] = defaultdict(list)
    for use, steps in changes.items():
        groups[nodes[use[0]].input[use[1]], tuple(steps)].append(use)
    for (name, steps), members in groups.items():
        changed = _changed(tensors[name], steps, done)
        left[name] -= len(members)
        if not left[name]:  # onnxruntime takes no values of what nobody reads
            tensors[name].CopyFrom(changed)
            continue
        changed.name = fresh_name(f"{name}/smooth", taken)
        model.graph.initializer.append(changed)
        for node, index in members:
            nodes[node].input[index] = changed.name


def _read_in(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield what the nodes and outputs of a graph read, as often as they do."""
    yield from (value.name for value in graph.output)
    yield from (name for node in graph.node for name in node.input)


def _changed(
    tensor: onnx.TensorProto, changes: Sequence[_Change], done: Sequence[Step]
) -> onnx.TensorProto:
    changed = copied(tensor)
    lazy = is_on_disk(tensor)
    array = None if lazy else array_of(tensor)
    for axis, number, what, heads in changes:
        step = done[number]
        vector = heads.of_values(step.factors) if heads else step.factors
        if array is None:
            if what == "@":
                rotate_on_reading(changed, axis, step.block)
            else:
                rescale_on_reading(changed, axis, vector, divides=what == "/")
        elif what == "@":
            array = rotate(array, axis, step.block)
        else:
            array = rescale(array, axis, vector, divides=what == "/")
    return changed if array is None else tensor_from(tensor.name, array)


def _insert_products(model: onnx.ModelProto, steps: Sequence[Step]) -> None:
    """Put before the readers that are reached what nothing absorbs: a Mul, a rotation. It is named
    after the first reader of all, so that a tensor has one name in every form of a model.
    """
    nodes = {node.name: node for node in model.graph.node}
    taken = tensor_names(model.graph) | set(nodes)
    types = {item.name: item.data_type for item in model.graph.initializer}
    before: dict[str, list[onnx.NodeProto]] = {}
    for step in (item for item in steps if item.reached):
        first = nodes[step.point.quantized[0]]
        own = _Inserted(
            model.graph, first.name, step.point.tensor, types[first.input[1]], taken, []
        )
        if not step.point.absorbers and (step.factors != 1).any():
            own.multiply(step.factors, step.point.spatial)
        if step.block > 1 and not step.point.turns:
            own.rotate(step.block, step.point.channels, step.point.rank)
        before[step.reached[0]] = own.made
        for reader in step.reached if own.made else ():
            nodes[reader].input[0] = own.tensor
    ordered = [made for node in model.graph.node for made in (*before.get(node.name, ()), node)]
    replace_nodes(model.graph, ordered)


@dataclass(slots=True)
class _Inserted:
    """Nodes `made` before the one named `first`; the last makes `tensor`. `taken`: names in use."""

    graph: onnx.GraphProto
    first: str
    tensor: str
    data_type: int
    taken: set[str]
    made: list[onnx.NodeProto]

    def multiply(self, factors: Array, spatial: int) -> None:
        """Divide by factors, as a product with their reciprocals."""
        reciprocal = 1 / factors.astype(np.float64)
        names = ("smooth", "smooth_factors", "smoothed")
        self._node("Mul", names, self._typed(reciprocal.reshape(-1, *[1] * spatial)))

    def rotate(self, block: int, channels: int, rank: int) -> None:
        """Multiply each block of the last of `rank` axes by a Hadamard matrix."""
        kept = [0] * (rank - 1)
        names = ("blocks", "blocks_shape", "blocked")
        self._node("Reshape", names, np.array([*kept, channels // block, block], np.int64))
        # a matrix for each of 1 batches: no linear that could be quantized itself
        names = ("rotation", "hadamard", "turned")
        self._node("MatMul", names, self._typed(hadamard(block)[None]))
        names = ("channels", "channels_shape", "rotated")
        self._node("Reshape", names, np.array([*kept, channels], np.int64))

    def _typed(self, values: Array) -> Array:
        return values.astype(helper.tensor_dtype_to_np_dtype(self.data_type))

    def _node(self, op_type: str, names: Sequence[str], constant: Array) -> None:
        name, held, output = (fresh_name(f"{self.first}/{own}", self.taken) for own in names)
        self.graph.initializer.append(tensor_from(held, constant))
        self.made.append(helper.make_node(op_type, [self.tensor, held], [output], name=name))
        self.tensor = output

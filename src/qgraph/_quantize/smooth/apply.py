"""Rewriting a model with smoothing factors: operands rescaled, Mul nodes where nothing absorbs.

A constant that others read too is left as it is: whoever needs it rescaled gets a copy. Weights on
the disk stay there and are rescaled when they are read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from qgraph._graph.bodies import tensor_names, with_bodies
from qgraph._graph.edit.names import fresh_name
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.rescaling import rescale, rescale_on_reading
from qgraph._graph.io.weights import array_of, is_on_disk
from qgraph._graph.tensors import Array
from qgraph._quantize.smooth.layers import Heads, Operand
from qgraph._quantize.smooth.points import SmoothPoint

_Use = tuple[str, int]
_Change = tuple[int, int, bool, Heads | None]
"""Axis, number of the point, whether it divides, and whose heads share a factor."""


def smooth(
    prepared: PreparedModel, points: Sequence[SmoothPoint], factors: Sequence[Array]
) -> PreparedModel:
    """Return the smoothed model, under the identity of the model it was made from.

    `factors`: for each point, float32 [channels], all > 0. Node names stay.
    """
    model = onnx.ModelProto()
    model.CopyFrom(prepared.model)
    _insert_products(model, points, factors)
    _rescale(model, _changes(points), factors)
    return replace(prepared, model=model)


def _changes(points: Sequence[SmoothPoint]) -> dict[_Use, list[_Change]]:
    """Return what happens to each operand, in order."""
    changes: dict[_Use, list[_Change]] = defaultdict(list)

    def note(operands: Sequence[Operand], number: int, *, divides: bool) -> None:
        for operand in operands:
            changes[operand.node, operand.index].append(
                (operand.axis, number, divides, operand.heads)
            )

    for number, point in enumerate(points):
        note(point.readers, number, divides=False)
        note(point.absorbers, number, divides=True)
    return changes


def _rescale(
    model: onnx.ModelProto, changes: Mapping[_Use, Sequence[_Change]], factors: Sequence[Array]
) -> None:
    nodes = {node.name: node for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for graph in with_bodies(model.graph) for name in _read_in(graph))
    taken = tensor_names(model.graph)
    groups: dict[tuple[str, tuple[_Change, ...]], list[_Use]] = defaultdict(list)
    for use, steps in changes.items():
        groups[nodes[use[0]].input[use[1]], tuple(steps)].append(use)
    for (name, steps), members in groups.items():
        changed = _rescaled(tensors[name], steps, factors)
        if len(members) == uses[name]:
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


def _rescaled(
    tensor: onnx.TensorProto, steps: Sequence[_Change], factors: Sequence[Array]
) -> onnx.TensorProto:
    if is_on_disk(tensor):
        changed = onnx.TensorProto()
        changed.CopyFrom(tensor)
        for axis, vector, divides in _vectors(steps, factors):
            rescale_on_reading(changed, axis, vector, divides=divides)
        return changed
    array = array_of(tensor)
    for axis, vector, divides in _vectors(steps, factors):
        array = rescale(array, axis, vector, divides=divides)
    return tensor_from(tensor.name, array)


def _vectors(
    steps: Sequence[_Change], factors: Sequence[Array]
) -> Iterator[tuple[int, Array, bool]]:
    for axis, number, divides, heads in steps:
        vector = factors[number]
        yield axis, heads.of_values(vector) if heads else vector, divides


def _insert_products(
    model: onnx.ModelProto, points: Sequence[SmoothPoint], factors: Sequence[Array]
) -> None:
    """Put a Mul before the readers of every point that nothing absorbs."""
    nodes = {node.name: node for node in model.graph.node}
    taken = tensor_names(model.graph) | set(nodes)
    before: dict[str, onnx.NodeProto] = {}
    for point, vector in zip(points, factors, strict=True):
        if point.absorbers:
            continue
        first = point.quantized[0]
        output, name, constant = (
            fresh_name(f"{first}/{tag}", taken) for tag in ("smoothed", "smooth", "smooth_factors")
        )
        readers = [nodes[reader] for reader in point.quantized]
        weight = next(item for item in model.graph.initializer if item.name == readers[0].input[1])
        dtype = helper.tensor_dtype_to_np_dtype(weight.data_type)
        reciprocal = (1 / vector.astype(np.float64)).astype(dtype)
        reciprocal = reciprocal.reshape(-1, *[1] * point.spatial)
        model.graph.initializer.append(tensor_from(constant, reciprocal))
        before[first] = helper.make_node("Mul", [point.tensor, constant], [output], name=name)
        for reader in readers:
            reader.input[0] = output
    ordered = [made for node in model.graph.node for made in _with(before.get(node.name), node)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _with(before: onnx.NodeProto | None, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return [copy] if before is None else [before, copy]

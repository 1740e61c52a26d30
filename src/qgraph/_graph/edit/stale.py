"""Shapes that a file gives its inner tensors, held against those that follow from its inputs.

Who makes an input dynamic by hand often leaves all other shapes as they were. Folding takes them
for the model's: with `Shape` of such a tensor, a batch of 1 for good.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from qgraph._graph.index import inferred

_Shape = onnx.TensorShapeProto


def drop_stale_shapes(model: onnx.ModelProto) -> None:
    """Forget the shapes of all inner tensors if one of them contradicts what follows from the
    inputs, and correct those of outputs that do.
    """
    graph = model.graph
    dynamic = _named(graph.input)
    # values of shape arithmetic are not followed: ONNX would fill a tensor of any size for that
    found = inferred(model, declared=False)
    follows = {
        value.name: value.type.tensor_type.shape
        for value in (*found.value_info, *found.output)
        if value.type.tensor_type.HasField("shape")
    }
    described = [
        (value.type.tensor_type, follows[value.name])
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape") and value.name in follows
    ]
    stale = [(kind, shape) for kind, shape in described if _differ(kind.shape, shape, dynamic)]
    for kind, shape in stale:
        kind.shape.CopyFrom(shape)
    for value in graph.value_info if stale else ():
        value.type.tensor_type.ClearField("shape")


def _named(inputs: Iterable[onnx.ValueInfoProto]) -> set[str]:
    """Return the names of dynamic sizes; one without a name cannot be followed."""
    shapes = (value.type.tensor_type.shape for value in inputs)
    return {dim.dim_param for shape in shapes for dim in shape.dim if dim.dim_param}


def _differ(declared: _Shape, follows: _Shape, dynamic: set[str]) -> bool:
    """Return whether a number is declared for what is another number, or the size of an input."""
    if len(declared.dim) != len(follows.dim):
        return True
    return any(
        one.HasField("dim_value")
        and (other.dim_param in dynamic or (other.HasField("dim_value") and one != other))
        for one, other in zip(declared.dim, follows.dim, strict=True)
    )

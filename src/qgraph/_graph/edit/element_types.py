"""The element type and rank of every tensor of a graph, as far as ONNX's inference goes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def is_half(model: onnx.ModelProto) -> bool:
    """Return whether weights, inputs or outputs of `model` are fp16 or bf16."""
    values = (*model.graph.input, *model.graph.output)
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {tensor.data_type for tensor in model.graph.initializer}
    return not types.isdisjoint(HALF)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return tensor → element type (`TensorProto.DataType`) of the tensors of the main graph."""
    found = {tensor.name: int(tensor.data_type) for tensor in model.graph.initializer}
    for value in _described(model):
        kind = value.type.tensor_type.elem_type
        if kind:
            found[value.name] = int(kind)
    return found


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return tensor → number of axes, of the tensors of the main graph where it is known."""
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in _described(model)
        if value.type.tensor_type.HasField("shape")
    }


def inferred(model: onnx.ModelProto, *, values: bool = False) -> onnx.GraphProto:
    """Return the graph with what inference finds, bodies included; large weights are inputs.

    `values`: follow those of shape arithmetic, too.
    """
    slim = _without_weights(model)
    return onnx.shape_inference.infer_shapes(slim, data_prop=values).graph


def _described(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield what is known of tensors, what the model itself says last."""
    graph = model.graph
    yield from inferred(model).value_info
    yield from (*graph.value_info, *graph.input, *graph.output)


def floats_made(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Yield (node, tensor) for every fp32 tensor that a node of the main graph makes."""
    types = element_types(model)
    for node in model.graph.node:
        for name in node.output:
            if name and types.get(name) == TensorProto.FLOAT:
                yield node, name


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large weights are inputs: inference needs their types alone."""
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    del slim.graph.initializer[:]
    there = {value.name for value in slim.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL):
            slim.graph.initializer.append(tensor)  # shapes and axes
        elif tensor.name not in there:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return slim

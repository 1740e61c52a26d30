"""A half-precision graph as onnxruntime's CPU computes it anyway: in fp32.

The CPU provider has next to no half-precision kernels. It computes in fp32 and rounds only where a
tensor leaves the session, so cutting an fp16 graph would round in places where the whole does not.
Saying fp32 throughout makes every engine compute the same numbers, wherever it cuts; `rounded` says
where to round, as kernels do that accumulate in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.bodies import bodies_of, copied, replace_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import HALF, GraphIndex
from qgraph._graph.io.weights import is_on_disk, retype_on_reading
from qgraph._graph.tensors import Feed, LazyFeeds


def in_single(prepared: PreparedModel) -> PreparedModel:
    """Return `prepared` with every fp16 and bf16 tensor as fp32; weights on the disk stay there."""
    model = copied(prepared.model)
    _widen_graph(model.graph)
    for function in model.functions:
        _widen_nodes(function.node)
    return replace(prepared, model=model)


class FeedsInSingle(LazyFeeds):
    """`feeds` with their half-precision arrays as float32."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def make(self, index: int) -> Feed:
        return {
            name: a.astype(np.float32) if a.dtype.name in ("float16", "bfloat16") else a
            for name, a in self._feeds[index].items()
        }


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        declared = value.type.tensor_type
        if declared.elem_type in HALF:
            declared.elem_type = TensorProto.FLOAT
    _widen_nodes(graph.node)


def _widen_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        for body in bodies_of(node):
            _widen_graph(body)
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in HALF:
        return
    if is_on_disk(tensor):
        retype_on_reading(tensor, TensorProto.FLOAT)
    else:
        single = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(single, tensor.name))


def rounded(prepared: PreparedModel) -> PreparedModel:
    """Return an fp16 model as one in fp32 that rounds after every node; its inputs are fp32."""
    types = GraphIndex(prepared.model).types
    single = in_single(prepared)
    nodes: list[onnx.NodeProto] = []
    for node in single.model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types.get(name) == TensorProto.FLOAT16:
                whole, half = f"{name}/whole", f"{name}/half"
                node.output[index] = whole
                nodes.append(helper.make_node("Cast", [whole], [half], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    replace_nodes(single.model.graph, nodes)
    return single

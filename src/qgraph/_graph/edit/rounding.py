"""The fp32 graph that computes what an fp16 graph does: every fp16 tensor is rounded as it arises.

onnxruntime's CPU computes an fp16 graph in fp32 and rounds where it likes; this graph says where.
Sums inside a node are fp32's, as in kernels that accumulate so.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import replace_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.widen import in_single
from qgraph._graph.index import GraphIndex


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

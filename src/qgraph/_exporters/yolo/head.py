"""The head of a detector, found by structure: what feeds the outputs through the box decoding.

From the graph's outputs upwards, everything that multiplies no weights is decoding: reshaping,
joining of scales, sigmoid, softmax, anchors, strides, top-k. The first convolutions met are the
head's output convolutions, with one exception: a convolution (or MatMul) of one output channel that
reads a softmax is the average of a distribution over distances (DFL, Li et al. 2020), a part of the
decoding; what lies above it is looked at in turn. No name is looked at.

| model           | output convolutions                  | distributions | joined by      |
|-----------------|--------------------------------------|---------------|----------------|
| YOLOv5, v7      | one a scale                          | none          | Concat, or not |
| YOLOv8, v9, 11  | boxes and classes, two a scale       | one           | Concat         |
| YOLOv10         | boxes and classes, two a scale       | one           | Concat, TopK   |
| YOLO26          | boxes and classes, two a scale       | none          | Concat, TopK   |
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from qgraph._graph.edit.nodes import CONVOLUTIONS, GEMMS
from qgraph._graph.index import GraphIndex, reads

_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"}


@dataclass(frozen=True, slots=True)
class DetectorHead:
    """Names of nodes: `convolutions` give boxes and scores, `distributions` average distances."""

    convolutions: frozenset[str]
    distributions: frozenset[str]


def find_detector_head(model: onnx.ModelProto) -> DetectorHead | None:
    """Return the head of a detector, None where the graph does not end in one.

    It must end in two or more convolutions that reach the outputs through no other weights, and
    either be joined over scales or be outputs of their own.
    """
    index = GraphIndex(model)
    convolutions: set[str] = set()
    distributions: set[str] = set()
    operators: set[str] = set()
    seen: set[str] = set()
    waiting = [value.name for value in model.graph.output]
    while waiting:
        node = index.producer.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type not in GEMMS or index.initializers.keys().isdisjoint(node.input[:2]):
            operators.add(node.op_type)
        elif _averages_a_softmax(index, node):
            distributions.add(node.name)
        elif node.op_type in CONVOLUTIONS:
            convolutions.add(node.name)
            continue
        else:
            return None
        waiting += reads(node)
    joined = "Concat" in operators or len(model.graph.output) == len(convolutions)
    if len(convolutions) < 2 or not joined:
        return None
    return DetectorHead(frozenset(convolutions), frozenset(distributions))


def _averages_a_softmax(index: GraphIndex, node: onnx.NodeProto) -> bool:
    if _outputs_of(index, node) != 1:
        return False
    above = index.producer.get(node.input[0])
    while above is not None and above.op_type in _MOVES:
        above = index.producer.get(above.input[0])
    return above is not None and above.op_type == "Softmax"


def _outputs_of(index: GraphIndex, node: onnx.NodeProto) -> int:
    """Return how many output channels a weight of one convolution or MatMul makes."""
    weight = index.initializers.get(node.input[1])
    shape = () if weight is None else tuple(weight.dims)
    if not shape:
        return 0
    return int(shape[0] if node.op_type == "Conv" else shape[-1])

"""R17 to R21: where INT8 builds and is right, but brings little or costs accuracy for nothing.

A model without any Q/DQ gets what can be said before it is quantized: R17 and R20 of every GEMM.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qgraph._graph.edit.gain import without_gain
from qgraph._graph.edit.nodes import GEMMS
from qgraph._graph.io.rescaling import is_rotation
from qgraph._graph.rules.finding import Breach
from qgraph._graph.rules.placement import is_product
from qgraph._graph.rules.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph, scale_of

_FLOAT_OPS = {
    "Softmax": "a softmax",
    "LayerNormalization": "a norm",
    "RMSNormalization": "a norm",
    "SimplifiedLayerNormalization": "a norm",
    "InstanceNormalization": "a norm",
    "GroupNormalization": "a norm",
    "Gelu": "a GELU",
    "Sigmoid": "a sigmoid",
    "Erf": "a GELU",
    "HardSigmoid": "a sigmoid",
}
_PROFILE = "qgraph.profile"
"""What a model's metadata says its profile under."""
_ON_THE_WAY_OUT = (
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Concat"),
    *("Sigmoid", "Softmax", "LogSoftmax", "Slice", "Split", QUANTIZE, DEQUANTIZE),
)


def is_int8(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """Return whether a GEMM reads Q/DQ on both inputs."""
    return len(node.input) > 1 and all(graph.is_dequantized(name) for name in node.input[:2])


def gemm_is_large_enough(graph: QdqGraph) -> Iterator[Breach]:
    """R17: an INT8 GEMM has more than one row, and K and N, or channels, of 16 and more."""
    for node in _to_look_at(graph):
        what = "" if is_product(graph, node) else without_gain(graph, node)
        if what:
            yield Breach(node.name, node.input[1], what, "Leave it float.")


def _to_look_at(graph: QdqGraph) -> Iterator[onnx.NodeProto]:
    """Yield the INT8 GEMMs; all of them where nothing is quantized yet."""
    for node in graph.of(*GEMMS):
        if len(node.input) > 1 and (is_int8(graph, node) or not graph.is_quantized):
            yield node


def concat_has_one_scale(graph: QdqGraph) -> Iterator[Breach]:
    """R18: what is concatenated in INT8 has one scale, or all but one are quantized again."""
    for node in graph.of("Concat"):
        made_by = [graph.producer.get(name) for name in node.input]
        scales = [
            graph.constant(scale_of(item))
            for item in made_by
            if item is not None and item.op_type == DEQUANTIZE
        ]
        found = {scale.tobytes() for scale in scales if scale is not None}
        if len(scales) == len(node.input) and len(found) > 1:
            yield Breach(
                node.name,
                node.input[0],
                f"its {len(node.input)} inputs have {len(found)} different scales, so they are"
                " quantized again",
                "Give them one scale, or leave the Concat float.",
            )


def fragile_op_is_float(graph: QdqGraph) -> Iterator[Breach]:
    """R19: norms, GELU, sigmoid and softmax read no DQ."""
    for node in graph.of(*_FLOAT_OPS):
        if graph.comes_from(node.input[0], DEQUANTIZE):
            yield Breach(
                node.name,
                node.input[0],
                f"the input of {_FLOAT_OPS[node.op_type]} is quantized: it costs accuracy, and the"
                " operator computes in float anyway",
                "Quantize inputs of GEMMs alone.",
            )


def head_is_float(graph: QdqGraph) -> Iterator[Breach]:
    """R20: the last GEMM before an output stays float: its error reaches the user undamped.

    What is advised, to look at its sensitivity first, has been done where qgraph cut the profile.
    An output of a body is none of the model's.
    """
    if graph.outer is not None:
        return
    if graph.is_quantized and any(item.key == _PROFILE for item in graph.model.metadata_props):
        return
    for node in _to_look_at(graph):
        if not is_product(graph, node) and _reaches_output(graph, node.output[0]):
            yield Breach(
                node.name,
                node.output[0],
                "only shape operators stand between it and an output (an LM head, a detector's"
                " output convolution): its whole error is seen",
                "Look at its sensitivity before it is quantized; usual is to leave it float.",
            )


def _reaches_output(graph: QdqGraph, tensor: str) -> bool:
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        if name in graph.outputs:
            return True
        if name in seen:
            continue
        seen.add(name)
        for reader, _ in graph.uses(name):
            if reader.op_type in _ON_THE_WAY_OUT:
                waiting += reader.output
    return False


def int8_is_no_island(graph: QdqGraph) -> Iterator[Breach]:
    """R21: an INT8 GEMM has an INT8 GEMM before or after it; else it pays two reformats.

    Of those around it, what INT8 makes no faster does not count: it is rightly float (R17), and so
    is a rotation of what a GEMM reads.
    """
    costly = {n.name: is_int8(graph, n) for n in graph.of(*GEMMS) if not _rotates(graph, n)}
    if sum(costly.values()) < 2:
        return
    before, after = _neighbours(graph, set(costly))
    for node in graph.of(*GEMMS):
        if not costly.get(node.name) or is_product(graph, node):
            continue
        near = before[node.name] | after[node.name]
        around = {name for name in near if not without_gain(graph, graph.by_name[name])}
        if len(graph.uses(node.input[0])) > 1:  # others share its Q/DQ, as q, k and v do
            continue
        if around and not any(costly[name] for name in around):
            yield Breach(
                node.name,
                node.input[0],
                f"the {len(around)} GEMMs around it are float: quantizing it alone costs a"
                " conversion on each side",
                "Quantize its neighbours too, or leave it float.",
            )


def _rotates(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """Return whether a product is a rotation (`--rotate`), which is meant to stay float."""
    if node.op_type != "MatMul" or len(graph.shape_of(node.input[1]) or ()) != 3:
        return False
    values = graph.constant(node.input[1])
    return values is not None and is_rotation(values)


def _neighbours(
    graph: QdqGraph, gemms: set[str]
) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return, per GEMM, the nearest GEMMs above and below it."""
    above: dict[str, frozenset[str]] = {}
    before: dict[str, set[str]] = {name: set() for name in gemms}
    after: dict[str, set[str]] = {name: set() for name in gemms}
    for node in graph.nodes:
        nearest = frozenset().union(*(above.get(name, frozenset()) for name in node.input))
        if node.name in gemms:
            before[node.name] |= nearest
            for name in nearest:
                after[name].add(node.name)
            nearest = frozenset({node.name})
        for output in node.output:
            above[output] = nearest
    return before, after

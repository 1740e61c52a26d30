"""The graph index: what is found, above all of what the bodies of an If read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qgraph._exporters.exported import name_weights
from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.index import GraphIndex, attributes, opset_of, reads
from qgraph._graph.rules.finding import Target
from qgraph._graph.rules.fixes import fix
from qgraph._graph.rules.linting import lint
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._quantize.half.structure import masks
from qgraph._quantize.smooth.points import find_points

Build = Callable[..., onnx.ModelProto]

BODIES = """(float[N,4] x, bool c) => (float[N,4] y) { [a] a = Relu(x) [i] y = If(c) <
  then_branch = then () => (float[N,4] t) { [inner] b = Neg(a) t = Add(b, w) },
  else_branch = else () => (float[N,4] a) { } > }"""
W4 = np.ones((4, 4), np.float32)


def test_a_tensor_is_made_by_its_node_and_inputs_by_none(build: Build) -> None:
    index = GraphIndex(build("(float[N] x) => (float[N] y) { [a] h = Relu(x) [b] y = Neg(h) }"))
    assert index.producer["h"] is index.by_name["a"]
    assert "x" not in index.producer and not index.readers("y")
    assert index.inputs == {"x"} and index.outputs == {"y"}


def test_a_node_that_reads_a_tensor_twice_is_one_reader_with_two_uses(build: Build) -> None:
    index = GraphIndex(build("(float[N] x) => (float[N] y) { [a] y = Mul(x, x) }"))
    node = index.by_name["a"]
    assert list(index.readers("x")) == [node]
    assert index.uses("x") == [(node, 0), (node, 1)]


def test_what_a_body_reads_from_outside_its_node_reads(build: Build) -> None:
    index = GraphIndex(build(BODIES, w=np.ones(4, np.float32)))
    assert reads(index.by_name["i"]) == ["c", "a", "w"]
    assert [node.name for node in index.readers("a")] == ["i"]
    assert index.uses("a") == [] and not index.readers("b")


def test_a_tensor_that_a_body_only_hands_on_is_read(build: Build) -> None:
    text = """(float[N] x, bool c) => (float[N] y) { a = Relu(x) [i] y = If(c) <
      then_branch = then () => (float[N] t) { t = Neg(x) },
      else_branch = else () => (float[N] a) { } > }"""
    assert "a" in reads(GraphIndex(build(text)).by_name["i"])


def test_an_output_that_is_left_out_is_made_and_read_by_nobody(build: Build) -> None:
    text = "(float[N,4] x) => (float[N,4] y) { [d] y, = Clip(x, , m) }".replace("y,", "y")
    index = GraphIndex(build(text, m=np.float32(1).reshape(())))
    assert "" not in index.producer and not index.readers("")


@pytest.mark.parametrize("spelled", ["value = float[2] {1, 2}", "value_floats = [1.0, 2.0]"])
def test_constants_are_initializers_and_what_constant_nodes_hold(
    build: Build, spelled: str
) -> None:
    text = f"(float[2] x) => (float[2] y) {{ k = Constant<{spelled}>() y = Add(x, k) }}"
    index = GraphIndex(build(text, w=np.array([3.0], np.float32)))
    k, w = index.constant("k"), index.constant("w")
    assert k is not None and k.tolist() == [1, 2]
    assert w is not None and w.tolist() == [3]
    assert index.constant("x") is None and index.constant("nothing") is None
    assert index.shape_of("k") == (2,) and index.shape_of("nothing") is None


def test_types_are_declared_held_or_inferred(build: Build) -> None:
    text = "(float[N,4] x) => (int64[2] y) { h = MatMul(x, w) g = Cast<to = 10>(h) y = Shape(g) }"
    index = GraphIndex(build(text, w=np.ones((4, 8), np.float32)))
    assert {name: index.types[name] for name in "xwhgy"} == {
        "x": TensorProto.FLOAT,
        "w": TensorProto.FLOAT,
        "h": TensorProto.FLOAT,
        "g": TensorProto.FLOAT16,
        "y": TensorProto.INT64,
    }
    assert index.shape_of("h") == (None, 8)


@pytest.mark.parametrize(
    "node",
    [
        "h = GroupNormalization<num_groups = 2>(x, s, s)",
        "h = com.microsoft.QuickGelu(x)",
        "n, m, v, h = com.microsoft.SkipLayerNormalization(x, x, s)",
    ],
)
def test_what_onnx_infers_nothing_of_is_as_what_it_reads(build: Build, node: str) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g'
        f" (float16[N,4,8] x, float16[4] s) => (float16[N,8,4] y) {{ {node}"
        " t = Transpose<perm = [0,2,1]>(h) y = Relu(t) }"
    )
    index = GraphIndex(build(text))
    assert index.types["h"] == index.types["t"] == TensorProto.FLOAT16
    assert index.shape_of("h") == (None, 4, 8) and index.shape_of("t") == (None, 8, 4)


def test_shapes_that_follow_from_the_scales_of_a_resize_are_known(build: Build) -> None:
    text = "(float[1,3,8,8] x) => (float[1,3,h,w] y) { r = Resize(x, , s) y = Relu(r) }"
    model = build(text, s=np.array([1, 1, 2, 2], np.float32))
    assert GraphIndex(model).shape_of("r") == (1, 3, 16, 16)


def test_a_graph_that_inference_gives_up_on_has_its_declared_types(build: Build) -> None:
    model = build("(float[4] x) => (float[4] y) { h = MatMul(x, w) y = Relu(h) }", w=W4)
    del model.opset_import[:]
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model)
    known = {"x": TensorProto.FLOAT, "w": TensorProto.FLOAT, "y": TensorProto.FLOAT}
    assert GraphIndex(model).types == known


@pytest.mark.parametrize("name", ["", "ai.onnx"])
def test_the_opset_is_that_of_the_domain_asked_for(build: Build, name: str) -> None:
    model = build("(float[2] x) => (float[2] y) { y = Relu(x) }")
    model.opset_import[0].domain = name
    model.opset_import.add(domain="com.microsoft", version=3)
    assert GraphIndex(model).opset == 21
    assert opset_of(model, ["com.microsoft"]) == 3 and opset_of(model, ["other"]) == 0


def test_attributes_are_python_values(build: Build) -> None:
    model = build("(float[2,2] x) => (float[2,2] y) { y = Transpose<perm = [1, 0]>(x) }")
    assert attributes(model.graph.node[0]) == {"perm": [1, 0]}


def test_smoothing_is_not_absorbed_where_a_body_hands_the_tensor_on(build: Build) -> None:
    """What goes out through the body would come out divided."""
    alone = "(float[N,4] x, bool c) => (float[N,4] y) { [m] h = MatMul(x, w) [n] y = MatMul(h, w) }"
    body = """(float[N,4] x, bool c) => (float[N,4] y, float[N,4] z) {
      [m] h = MatMul(x, w) [n] y = MatMul(h, v) [i] z = If(c) <
      then_branch = then () => (float[N,4] t) { t = Neg(x) },
      else_branch = else () => (float[N,4] h) { } > }"""
    for text, absorbed in ((alone.replace("(h, w)", "(h, v)"), True), (body, False)):
        model = build(text, w=W4, v=W4)
        points = find_points(model, quantizable_nodes(model)[0])
        (point,) = (point for point in points if point.tensor == "h")
        assert bool(point.absorbers) is absorbed


def test_a_quantizer_that_only_a_body_reads_is_no_unread_one(build: Build) -> None:
    text = """(float[4] x, bool c) => (float[4] y) {
      q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) [i] y = If(c) <
      then_branch = then () => (float[4] t) { t = Neg(d) },
      else_branch = else () => (float[4] x) { } > }"""
    model = build(text, s=np.float32(1).reshape(()), z=np.zeros((), np.int8))
    graph = QdqGraph(model, Path())
    findings = lint(graph, Target.TENSORRT_10, ())
    assert not [finding for finding in findings if finding.rule == "R22"]
    fix(model, findings, graph)
    assert len(model.graph.node) == 3


def test_a_weight_that_a_body_reads_keeps_the_tracers_name(build: Build) -> None:
    model = build(BODIES.replace("w)", "onnx_w)"), onnx_w=np.ones(4, np.float32))
    model.graph.initializer[0].name = "onnx::Add_7"
    then = next(item.g for item in model.graph.node[1].attribute if item.name == "then_branch")
    then.node[1].input[1] = "onnx::Add_7"
    name_weights(model)
    assert model.graph.initializer[0].name == "onnx::Add_7"


def test_what_a_body_reads_beside_a_softmax_is_no_mask(build: Build) -> None:
    text = """(float[N,4] x, bool c) => (float[N,4] y, float[N,4] z) {
      h = Add(x, m) y = Softmax(h) [i] z = If(c) <
      then_branch = then () => (float[N,4] t) { t = Neg(h) },
      else_branch = else () => (float[N,4] x) { } > }"""
    assert masks(GraphIndex(build(text, m=np.ones(4, np.float32)))) == set()

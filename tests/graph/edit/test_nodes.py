from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def only_node(model: onnx.ModelProto) -> QuantizableNode:
    (node,), kept = quantizable_nodes(model)
    assert not kept
    return node


def why_kept(model: onnx.ModelProto) -> str:
    found, (keep,) = quantizable_nodes(model)
    assert not found
    return keep.reason


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", (4, 3), 1),
        ("(float[N,4] x) => (float[N,3] y) { y = Gemm(x, w) }", (4, 3), 1),
        ("(float[N,4] x) => (float[N,3] y) { y = Gemm<transB = 1>(x, w) }", (3, 4), 0),
        ("(float[N,4,8,8] x) => (float[N,6,6,6] y) { y = Conv(x, w) }", (6, 4, 3, 3), 0),
        (
            "(float[N,4,8,8] x) => (float[N,6,6,6] y) { y = Conv<group = 2>(x, w) }",
            (6, 2, 3, 3),
            0,
        ),
        ("(float[N,4,8] x) => (float[N,6,10] y) { y = ConvTranspose(x, w) }", (4, 6, 3), 1),
        (
            "(float[N,4,8] x) => (float[N,6,10] y) { y = ConvTranspose<group = 2>(x, w) }",
            (4, 3, 3),
            None,
        ),
    ],
)
def test_the_axis_of_a_weight_counts_output_channels(
    build: Build, text: str, shape: tuple[int, ...], axis: int | None
) -> None:
    weight = only_node(build(text, w=zeros(*shape))).weight
    assert weight is not None
    assert (weight.axis, weight.shape, weight.index, weight.tensor) == (axis, shape, 1, "w")


def test_a_product_of_activations_reads_both(build: Build) -> None:
    node = only_node(build("(float[5,4] a, float[4,3] b) => (float[5,3] y) { y = MatMul(a, b) }"))
    assert node.weight is None and node.activations == ((0, "a"), (1, "b"))


def test_a_bias_is_neither_activation_nor_weight(build: Build) -> None:
    text = "(float[N,4] x) => (float[N,3] y) { y = Gemm(x, w, b) }"
    node = only_node(build(text, w=zeros(4, 3), b=zeros(3)))
    assert node.activations == ((0, "x"),)


def test_params_count_the_weights(build: Build) -> None:
    text = "(float[N,4,8,8] x) => (float[N,6,6,6] y) { y = Conv<group = 2>(x, w) }"
    weight = only_node(build(text, w=zeros(6, 2, 3, 3))).weight
    assert weight is not None and weight.params == 6 * 2 * 9


def test_a_node_knows_the_module_it_came_from(build: Build) -> None:
    model = build("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=zeros(4, 3))
    model.graph.node[0].name = "/model/layers.0/q_proj/MatMul"
    assert only_node(model).scope == "model.layers.0.q_proj"


def test_a_weight_on_the_left_is_kept(build: Build) -> None:
    text = "(float[4,N] x) => (float[3,N] y) { y = MatMul(w, x) }"
    assert "left" in why_kept(build(text, w=zeros(3, 4)))


def test_a_weight_of_three_axes_is_kept(build: Build) -> None:
    text = "(float[2,N,4] x) => (float[2,N,3] y) { y = MatMul(x, w) }"
    assert "[2, 4, 3]" in why_kept(build(text, w=zeros(2, 4, 3)))


def test_a_weight_without_elements_is_kept(build: Build) -> None:
    text = "(float[N,4] x) => (float[N,0] y) { y = MatMul(x, w) }"
    assert "[4, 0]" in why_kept(build(text, w=zeros(4, 0)))


def test_a_weight_in_double_is_kept(build: Build) -> None:
    text = "(double[N,4] x) => (double[N,3] y) { y = MatMul(x, w) }"
    assert "DOUBLE" in why_kept(build(text, w=np.zeros((4, 3))))


def test_a_convolution_whose_weight_is_computed_is_kept(build: Build) -> None:
    text = "(float[N,4,8] x, float[6,4,3] w) => (float[N,6,6] y) { y = Conv(x, w) }"
    assert "computed at run time" in why_kept(build(text))


def test_a_shared_weight_is_named_by_each_reader(build: Build) -> None:
    text = "(float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = Gemm<transB=1>(h, w) }"
    found, _ = quantizable_nodes(build(text, w=zeros(4, 4)))
    assert [(n.weight.tensor, n.weight.axis) for n in found if n.weight] == [("w", 1), ("w", 0)]


def test_nodes_stand_in_graph_order(build: Build) -> None:
    text = "(float[N,4] x) => (float[N,4] y) { [b] h = MatMul(x, w) [a] y = MatMul(h, w) }"
    found, _ = quantizable_nodes(build(text, w=zeros(4, 4)))
    assert [node.name for node in found] == ["b", "a"]


def test_other_operators_are_neither_found_nor_kept(build: Build) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    assert quantizable_nodes(model) == ([], [])


def test_a_namesake_of_another_domain_is_not_touched(build: Build) -> None:
    model = build("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=zeros(4, 3))
    model.graph.node[0].domain = "com.example"
    assert quantizable_nodes(model) == ([], [])


@pytest.mark.parametrize("inputs", [["x"], ["x", ""], []])
def test_a_node_without_its_operands_is_bad_input(build: Build, inputs: list[str]) -> None:
    model = build("(float[N,4] x) => (float[N,3] y) { [fc] y = MatMul(x, w) }", w=zeros(4, 3))
    model.graph.node[0].input[:] = inputs
    with pytest.raises(InputError, match="node 'fc'"):
        quantizable_nodes(model)


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        ('y = Einsum<equation = "ab,bc->ac">(x, w)', {"w": (4, 3)}, "an Einsum"),
        ("y = DeformConv<kernel_shape = [1, 1]>(x, v, x)", {"v": (3, 2, 1, 1)}, "deformable"),
        (
            "z = Unsqueeze(x, a) y, h, c = LSTM<hidden_size = 2>(z, w, r)",
            {"w": (1, 8, 4), "r": (1, 8, 2)},
            r"a recurrent cell \(LSTM\)",
        ),
        (
            "z = Unsqueeze(x, a) y = Attention<q_num_heads = 2, kv_num_heads = 2>(z, z, z)",
            {},
            "a product of activations",
        ),
        ("y = com.microsoft.FusedMatMul(x, w)", {"w": (4, 3)}, "a FusedMatMul of onnxruntime's"),
        (
            "s = ReduceSum<keepdims = 0>(x) c = Greater(s, k) y = If (c)"
            " <then_branch = t () => (float[N,3] p) { p = MatMul(x, w) },"
            " else_branch = e () => (float[N,3] q) { h = MatMul(x, w) q = Neg(h) }>",
            {"w": (4, 3)},
            "2 MatMul in the bodies of this If",
        ),
    ],
)
def test_what_multiplies_and_is_no_candidate_is_listed_with_its_reason(
    build: Build, text: str, weights: dict[str, tuple[int, ...]], reason: str
) -> None:
    constants = {name: zeros(*shape) for name, shape in weights.items()}
    if "Unsqueeze" in text:
        constants["a"] = np.array([0])
    if "Greater" in text:
        constants["k"] = np.array(0, np.float32)
    model = build(f"(float[N,4] x) => (float y) {{ {text} }}", opset=23, **constants)
    found, (keep,) = quantizable_nodes(model)
    assert not found and re.search(reason, keep.reason)

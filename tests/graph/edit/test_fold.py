from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.fold import fold
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError
from qgraph._graph.run.session import open_session

Build = Callable[..., onnx.ModelProto]
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "hidden",
    [
        "v = Identity(w)",
        "i = Identity(w) v = Identity(i)",
        "t = Transpose<perm = [1, 0]>(w) v = Transpose<perm = [1, 0]>(t)",
        "v = Cast<to = 1>(w)",
    ],
)
def test_a_hidden_weight_becomes_an_initializer(build: Build, hidden: str) -> None:
    model = fold(
        build(f"(float[N,4] x) => (float[N,3] y) {{ {hidden} y = MatMul(x, v) }}", w=WEIGHT)
    )
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    assert ops(model) == ["MatMul"]
    assert np.array_equal(weights[model.graph.node[0].input[1]], WEIGHT)


def test_a_weight_in_a_constant_node_becomes_an_initializer(build: Build) -> None:
    model = fold(
        build(
            "(float[N,2] x) => (float[N,1] y)"
            "{ v = Constant<value = float[2,1] {1, 2}>() y = MatMul(x, v) }"
        )
    )
    assert ops(model) == ["MatMul"] and len(model.graph.initializer) == 1


def test_names_of_the_nodes_that_stay_are_kept(build: Build) -> None:
    model = fold(
        build(
            "(float[N,4] x) => (float[N,3] y)"
            "{ [hide] v = Identity(w) [fc] h = MatMul(x, v) [act] y = Relu(h) }",
            w=WEIGHT,
        )
    )
    assert [node.name for node in model.graph.node] == ["fc", "act"]


def test_what_a_model_says_of_itself_and_its_parts_is_kept(build: Build) -> None:
    model = build("(float[N] x) => (float[N] y) { [act] y = Relu(x) }")
    model.producer_name, model.producer_version = "me", "1"
    model.domain, model.model_version = "org.example", 7
    ends = (*model.graph.input, *model.graph.output)
    for part in (model, model.graph, model.graph.node[0], *ends):
        part.doc_string = "what it is for"
        part.metadata_props.add(key="author", value="me")
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    assert fold(model) == model


def test_nodes_that_are_called_alike_keep_their_own_operators(build: Build) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g'
        " (float[N] x) => (float[N] y) { [act] h = com.microsoft.QuickGelu(x) [act] y = Relu(h) }"
    )
    kept = [(node.domain, node.op_type) for node in fold(build(text)).graph.node]
    assert kept == [("com.microsoft", "QuickGelu"), ("", "Relu")]


def test_an_empty_sequence_is_no_constant(build: Build) -> None:
    text = (
        "(float[N,4] x) => (float[N,4] y)"
        "{ e = SequenceEmpty<dtype = 1>() s = SequenceInsert(e, x) y = SequenceAt(s, i) }"
    )
    kept = fold(build(text, i=np.array(0)))
    assert ops(kept) == ["SequenceEmpty", "SequenceInsert", "SequenceAt"]


def test_an_input_nobody_reads_stays(build: Build) -> None:
    model = fold(build("(float[N] x, float[N] unused) => (float[N] y) { y = Relu(x) }"))
    assert [value.name for value in model.graph.input] == ["x", "unused"]


def test_dead_nodes_go(build: Build) -> None:
    model = fold(build("(float[N] x) => (float[N] y) { z = Abs(x) y = Relu(x) }"))
    assert ops(model) == ["Relu"]


def test_nodes_are_sorted(build: Build) -> None:
    model = fold(build("(float[N] x) => (float[N] y) { y = Relu(h) h = Abs(x) }"))
    assert ops(model) == ["Abs", "Relu"]
    onnx.checker.check_model(model, full_check=True)


def test_the_model_given_is_left_as_it_was(build: Build) -> None:
    model = build("(float[N,4] x) => (float[N,3] y) { v = Identity(w) y = MatMul(x, v) }", w=WEIGHT)
    before = model.SerializeToString(deterministic=True)
    fold(model)
    assert model.SerializeToString(deterministic=True) == before


def test_folding_twice_is_folding_once(build: Build) -> None:
    once = fold(
        build("(float[N,4] x) => (float[N,3] y) { v = Identity(w) y = MatMul(x, v) }", w=WEIGHT)
    )
    assert fold(once) == once


def test_a_body_may_call_its_own_tensors_what_comes_after_it(
    build: Build, prepared: Callable[[onnx.ModelProto], PreparedModel]
) -> None:
    text = (
        "(float[4] x, bool c) => (float[4] y) { z = If(c) <"
        "then_branch = t () => (float[4] a) { h = Relu(x) a = Neg(h) },"
        "else_branch = e () => (float[4] b) { b = Abs(x) }> h = Exp(z) y = Sub(h, z) }"
    )
    model = prepared(build(text)).model
    assert ops(model) == ["If", "Exp", "Sub"]
    got = open_session(model).run({"x": np.ones(4, np.float32), "c": np.ones((), bool)})
    assert got["y"] == pytest.approx(np.exp(-1) + 1)


def test_a_cycle_is_bad_input(build: Build) -> None:
    model = build("(float[N] x) => (float[N] y) { a = Add(x, b) b = Relu(a) y = Abs(b) }")
    with pytest.raises(InputError, match="cannot be sorted"):
        fold(model)


def test_a_constant_that_memory_cannot_hold_is_left_unfolded(build: Build) -> None:
    model = build(
        "(float[N] x) => (float[N] y) { big = ConstantOfShape(s) [add] y = Add(x, big) }",
        s=np.array([2**43]),
    )
    assert ops(fold(model)) == ["ConstantOfShape", "Add"]


def test_a_graph_without_nodes_passes(build: Build) -> None:
    model = build("(float[N] x) => (float[N] x) { }")
    assert [value.name for value in fold(model).graph.output] == ["x"]

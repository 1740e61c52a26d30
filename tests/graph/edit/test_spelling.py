"""Models spelled in unusual ways, prepared; onnxruntime says what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import computed
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.spelling import respell
from qgraph._graph.errors import InputError
from qgraph._graph.io.models import write_model

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
X = np.random.default_rng(0).standard_normal((2, 4), np.float32)
W = np.random.default_rng(1).standard_normal((4, 4), np.float32)
TWO = (
    "(float[N,4] x) => (float[N,4] y) { [one] a = MatMul(x, w) r = Relu(a) [two] y = MatMul(r, w) }"
)


def candidates(prepared: PreparedModel) -> list[str]:
    return [node.name for node in quantizable_nodes(prepared.model)[0]]


@pytest.mark.parametrize("opset", [11, 17, 21])
def test_a_constant_of_one_float_stays_a_float(build: Build, prepared: Prepare, opset: int) -> None:
    spelled = "value_float = 0.5" if opset > 11 else "value = float {0.5}"
    nodes = f"h = Constant<{spelled}>() a = Mul(x, h) [mm] y = MatMul(a, w)"
    text = f"(float[N,4] x) => (float[N,4] y) {{ {nodes} }}"
    model = build(text, opset=opset, w=W)
    assert np.allclose(computed(prepared(model).model, X), computed(model, X), atol=1e-6)


@pytest.mark.parametrize(
    ("spelled", "dtype"),
    [
        ("value_floats = [0.5, 1.0, 2.0, 4.0]", np.float32),
        ("value_ints = [1, 2, 3, 4]", np.int64),
        ("value_int = 3", np.int64),
        ("value_float = 3.0", np.float32),
    ],
)
def test_every_form_of_a_constant_has_the_type_onnx_says(
    build: Build, spelled: str, dtype: type[np.generic]
) -> None:
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ c = Constant<{spelled}>() y = Relu(x) }}")
    reference = ReferenceEvaluator(model.graph.node[0])
    evaluated: Any = reference.run(None, {})
    wanted = np.asarray(evaluated[0])
    respell(model)
    found = numpy_helper.to_array(model.graph.node[0].attribute[0].t)
    assert found.dtype == dtype and found.dtype == wanted.dtype and np.array_equal(found, wanted)


@pytest.mark.parametrize("also", [(), ("",)])
@pytest.mark.parametrize("opset", [12, 17])
def test_the_long_name_of_the_domain_is_the_short_one(
    build: Build, prepared: Prepare, opset: int, also: tuple[str, ...]
) -> None:
    model = build(TWO, opset=opset, w=W)
    before = computed(model, X)
    model.opset_import[0].domain = "ai.onnx"
    model.opset_import.extend(helper.make_opsetid(domain, opset) for domain in also)
    model.graph.node[0].domain = "ai.onnx"
    result = prepared(model)
    assert candidates(result) == ["one", "two"]
    assert {node.domain for node in result.model.graph.node} == {""}
    assert np.array_equal(computed(result.model, X), before)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("opset", [12, 21])
def test_a_sparse_weight_is_a_weight(
    build: Build, prepared: Prepare, opset: int, *, linear: bool
) -> None:
    dense = np.where(np.abs(W) > 1, W, 0).astype(np.float32)
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    values = numpy_helper.from_array(dense[dense != 0], "w")
    indices = numpy_helper.from_array(places.astype(np.int64), "w_places")
    model = build(TWO, opset=opset)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    result = prepared(model)
    assert candidates(result) == ["one", "two"]
    assert np.array_equal(computed(result.model, X), computed(build(TWO, opset=opset, w=dense), X))


@pytest.mark.parametrize("places", [[0, 16], [-1, 2], [1]])
def test_a_sparse_weight_with_impossible_places_is_bad_input(
    build: Build, places: list[int]
) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    indices = numpy_helper.from_array(np.array(places), "w_places")
    model = build(TWO)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    with pytest.raises(InputError, match="do not fit"):
        respell(model)


@pytest.mark.parametrize("opset", [10, 17])
def test_the_order_nodes_stand_in_does_not_matter(
    build: Build, prepared: Prepare, opset: int
) -> None:
    model = build(TWO, opset=opset, w=W)
    before = computed(model, X)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    result = prepared(model)
    assert candidates(result) == ["one", "two"]
    assert np.array_equal(computed(result.model, X), before)


def test_a_body_that_reads_what_stands_below_it_is_sorted(build: Build, prepared: Prepare) -> None:
    text = """(float[N,4] x) => (float[N,4] y) {
      y = If (c) <then_branch = t () => (float[N,4] a) { a = Relu(h) k = Abs(a) },
                  else_branch = e () => (float[N,4] b) { b = Neg(h) }>
      h = MatMul(x, w) s = ReduceSum<keepdims = 0>(x) c = Greater(s, z)
    }"""
    result = prepared(build(text, w=W, z=np.float32(0))).model
    assert [node.op_type for node in result.graph.node][-1] == "If"
    onnx.checker.check_model(result, full_check=True)
    computed(result, X)


@pytest.mark.parametrize("matrix", ["last", "first"])
@pytest.mark.parametrize("equation", ["ab,bc->ac", "...b,bc->...c", "ab,cb->ac", "a b, b c -> a c"])
def test_a_linear_layer_written_as_einsum_is_a_matmul(
    build: Build, prepared: Prepare, equation: str, matrix: str
) -> None:
    terms, result = equation.split("->")
    written = ",".join(terms.split(",")[::-1]) + "->" + result if matrix == "first" else equation
    read = "w, x" if matrix == "first" else "x, w"
    text = f'(float[N,4] x) => (float[N,4] y) {{ [fc] y = Einsum<equation = "{written}">({read}) }}'
    model = build(text, opset=17, w=W)
    made = prepared(model)
    assert candidates(made) == ["fc"] and [n.op_type for n in made.model.graph.node] == ["MatMul"]
    # float32 of two kernels
    assert np.allclose(computed(made.model, X), computed(model, X), atol=1e-5)


def test_a_matrix_that_is_turned_may_lie_on_the_disk(build: Build, tmp_path: Path) -> None:
    """Folding takes the Transpose away only where the matrix was read before."""
    w = np.random.default_rng(1).standard_normal((1024, 256), np.float32)
    text = '(float[N,256] x) => (float[N,1024] y) { [fc] y = Einsum<equation = "ab,cb->ac">(x, w) }'
    write_model(build(text, opset=21, w=w), tmp_path / "m.onnx", external_above=0)
    assert candidates(prepare(tmp_path / "m.onnx")) == ["fc"]


@pytest.mark.parametrize(
    "equation", ["ab,ac->bc", "ab,bc->ca", "ab,bc->abc", "ab,bb->ab", "ab,bc->cb", "ba,bc->ac"]
)
def test_another_einsum_stays_one(build: Build, prepared: Prepare, equation: str) -> None:
    text = f'(float[4,4] x) => (float[N,M] y) {{ [fc] y = Einsum<equation = "{equation}">(x, w) }}'
    assert candidates(prepared(build(text, opset=17, w=W))) == []


def test_an_einsum_of_two_activations_stays_one(build: Build, prepared: Prepare) -> None:
    text = """(float[4,4] x) => (float[4,4] y)
        { a = Einsum<equation = "ab,bc->ac">(x, x) y = Relu(a) }"""
    assert [n.op_type for n in prepared(build(text, opset=17)).model.graph.node] == [
        "Einsum",
        "Relu",
    ]

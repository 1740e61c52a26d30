"""An If of a constant condition gives way to its branch; onnxruntime says what both compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import computed

from qgraph._graph.edit.fold import fold
from qgraph._graph.edit.prepare import PreparedModel

Build = Callable[..., onnx.ModelProto]
X = np.random.default_rng(0).standard_normal((1, 4), np.float32)
W = np.random.default_rng(1).standard_normal((4, 4), np.float32)
PAIR = """(float[1,4] x) => (float[1,4] y) {
  a, b = If (c) <
    then_branch = t () => (float[1,4] a1, float[1,4] b1) { a1 = Relu(x) b1 = Sigmoid(x) },
    else_branch = e () => (float[1,4] a2, float[1,4] b2) { a2 = Neg(x) b2 = Abs(x) }>
  s = Sub(a, b) y = MatMul(s, w)
}"""
NESTED = """(float[1,4] x) => (float[1,4] y) {
  y = If (c) <
    then_branch = t () => (float[1,4] a) {
      a = If (c) <then_branch = u () => (float[1,4] h) { h = MatMul(x, w) },
                  else_branch = v () => (float[1,4] i) { i = Neg(x) }> },
    else_branch = e () => (float[1,4] b) { b = Abs(x) }>
}"""
OWN_CONSTANTS = """(float[1,4] x) => (float[1,4] y) {
  a, b = If (c) <
    then_branch = t () => (float[1,4] h, float[1,4] k)
      <float[1,4] k = {1, 2, 3, 4}> { h = Add(x, k) },
    else_branch = e () => (float[1,4] i, float[1,4] k)
      <float[1,4] k = {4, 3, 2, 1}> { i = Sub(x, k) }>
  k = Mul(a, b) y = MatMul(k, w)
}"""

SAME_NAMES = """(float[1,4] x) => (float[1,4] y) {
  [if] y, k = If (c) <
    then_branch = t () => (float[1,4] y, float[1,4] k) { k = Relu(x) y = MatMul(k, w) },
    else_branch = e () => (float[1,4] y, float[1,4] k) { k = Neg(x) y = Abs(k) }>
}"""
"""As optimum writes decoder_model_merged.onnx: a branch calls its results as the If does."""


@pytest.mark.parametrize("text", [PAIR, NESTED, OWN_CONSTANTS, SAME_NAMES])
@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("opset", [13, 21])
def test_all_outputs_of_the_branch_are_connected(
    build: Build, text: str, opset: int, *, condition: bool
) -> None:
    model = build(text, opset=opset, c=np.array(condition), w=W)
    folded = fold(model)
    assert "If" not in {node.op_type for node in folded.graph.node}
    onnx.checker.check_model(folded, full_check=True)
    assert np.array_equal(computed(folded, X), computed(model, X))


def test_a_condition_that_folding_works_out_counts(build: Build) -> None:
    text = PAIR.replace(
        "{\n  a, b", "{ k = Constant<value = int64 {3}>() c = Greater(n, k)\n  a, b"
    )
    model = build(text, n=np.array(7), w=W)
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Relu", "Sigmoid", "Sub", "MatMul"]


def test_an_if_whose_condition_is_computed_stays(build: Build) -> None:
    text = PAIR.replace("{\n  a, b", "{ m = ReduceSum<keepdims = 0>(x) c = Greater(m, n)\n  a, b")
    model = build(text, n=np.float32(0), w=W)
    folded = fold(model)
    assert "If" in {node.op_type for node in folded.graph.node}
    assert np.array_equal(computed(folded, X), computed(model, X))


def test_a_branch_may_call_its_results_as_the_if_does(
    build: Build, prepared: Callable[[onnx.ModelProto], PreparedModel]
) -> None:
    text = SAME_NAMES.replace(
        "{\n  [if]", "{ m = ReduceSum<keepdims = 0>(x) c = Greater(m, n) [if]"
    )
    model = build(text, n=np.float32(0), w=W)
    made = prepared(model).model
    onnx.checker.check_model(made, full_check=True)
    for x in (X, -X):
        assert np.array_equal(computed(made, x), computed(model, x))

"""Stacked weights of one matrix are that matrix; onnxruntime says what both forms compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import computed

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
TURN = "Transpose<perm = [0, 2, 1]>"
X = np.random.default_rng(0).standard_normal((2, 3, 5, 4), np.float32)
W = np.random.default_rng(1).standard_normal((4, 6), np.float32)


@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 1, 4, 6)])
@pytest.mark.parametrize("hidden", ["v = Identity(w)", f"u = {TURN}(w) v = {TURN}(u)"])
def test_leading_ones_are_squeezed(
    build: Build, prepared: Prepare, shape: tuple[int, ...], hidden: str
) -> None:
    if len(shape) == 4:
        hidden = hidden.replace("[0, 2, 1]", "[0, 1, 3, 2]")
    text = f"(float[2,3,5,4] x) => (float[2,3,5,6] y) {{ {hidden} [mm] y = MatMul(x, v) }}"
    model = build(text, w=W.reshape(shape))
    result = prepared(model).model
    ((node,), kept) = quantizable_nodes(result)
    assert not kept and node.weight is not None and node.weight.shape == (4, 6)
    assert np.array_equal(computed(result, X), computed(model, X))


def test_axes_that_the_weight_brings_along_stay(build: Build, prepared: Prepare) -> None:
    text = "(float[5,4] x) => (float[1,5,6] y) { [mm] y = MatMul(x, w) }"
    model = build(text, w=W[None])
    result = prepared(model).model
    found, (keep,) = quantizable_nodes(result)
    assert not found and "a matrix for each of 1 batches" in keep.reason
    assert computed(result, X[0, 0]).shape == (1, 5, 6)


def test_a_matrix_for_each_batch_is_kept_and_said_to_be_one(
    build: Build, prepared: Prepare
) -> None:
    text = "(float[2,3,5,4] x) => (float[2,3,5,6] y) { [mm] y = MatMul(x, w) }"
    model = build(text, w=np.stack([W, 2 * W, 3 * W]))
    found, (keep,) = quantizable_nodes(prepared(model).model)
    assert not found and "a matrix for each of 3 batches" in keep.reason


def test_a_weight_that_others_read_keeps_its_axes(build: Build, prepared: Prepare) -> None:
    text = """(float[2,3,5,4] x) => (float[2,3,5,6] y, float[1,4,6] z)
    { [mm] y = MatMul(x, w) s = ReduceSum<keepdims = 0>(x) z = Mul(w, s) }"""
    model = build(text, w=W[None])
    result = prepared(model).model
    assert [list(item.dims) for item in result.graph.initializer] == [[1, 4, 6]]
    assert np.array_equal(computed(result, X), computed(model, X))

"""Where outputs that are selected by value are compared instead, and inner tensors as outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._graph.edit.selecting import behind_selection, last_weights, weighed, with_outputs
from qgraph._graph.errors import InputError

Build = Callable[..., onnx.ModelProto]
W = np.eye(16, dtype=np.float32)
ENDS = {
    "the highest of a row": (
        "(float[N,16] x) => (int64[N,1] y)"
        " { a = MatMul(x, w) b = Tanh(a) y = ArgMax<axis = 1>(b) }",
        ("b",),
    ),
    "the lowest, beside an output that is not selected": (
        "(float[N,16] x) => (float[N,16] a, int64[N,1] y)"
        " { a = MatMul(x, w) b = Abs(a) y = ArgMin<axis = 1>(b) }",
        ("a", "b"),
    ),
    "boxes that follow the order of scores": (
        "(float[1,8,16] x) => (float[1,K,16] kept, float[1,K] best) <int64[1] k = {3}>"
        " { boxes = MatMul(x, w) s = ReduceMax<axes = [2], keepdims = 0>(boxes) p = Sigmoid(s)"
        " best, i = TopK(p, k) j = Unsqueeze<axes = [2]>(i)"
        " e = Concat<axis = 2>(j, j) kept = GatherND<batch_dims = 1>(boxes, j) }",
        ("p", "boxes"),
    ),
    "two that select, one behind the other": (
        "(float[N,16] x) => (int64[N,1] y) <int64[1] k = {3}>"
        " { a = MatMul(x, w) v, i = TopK(a, k) y = ArgMax<axis = 1>(v) }",
        ("a",),
    ),
    "a threshold, beside a size": (
        "(float[N,16] x) => (bool[N,16] y, int64[2] n) <float half = {0.5}>"
        " { a = MatMul(x, w) b = Sigmoid(a) c = Greater(b, half) y = Not(c) n = Shape(a) }",
        ("b", "n"),
    ),
    "what a mask leaves of scores": (
        "(float[1,16] x, bool[1,16] ok) => (int64[1,1] y, float[1,18] b)"
        " <float never = {-inf}, int64[4] at = {0, 1, 0, 1}>"
        " { a = MatMul(x, w) s = Where(ok, a, never) b = Pad(s, at, never)"
        " y = ArgMax<axis = 1>(b) }",
        ("a", "b"),
    ),
    "what lies around the best of masked scores": (
        "(float[1,16] x, bool[1,16] ok) => (float[1,1] y)"
        " <float never = {-inf}, int64[4] at = {0, 1, 0, 1}>"
        " { a = MatMul(x, w) s = Where(ok, a, never) b = Pad(s, at, never)"
        " i = ArgMax<axis = 1>(s) y = GatherElements<axis = 1>(b, i) }",
        ("a",),
    ),
    "one of two that are computed": (
        "(float[1,16] x, bool[1,16] ok) => (int64[1,1] y)"
        " { a = MatMul(x, w) b = Tanh(a) s = Where(ok, a, b) y = ArgMax<axis = 1>(s) }",
        ("s",),
    ),
    "a picture of bytes": (
        "(float[N,16] x) => (uint8[N,16] y) <float low = {0.0}, float high = {255.0}>"
        " { a = MatMul(x, w) b = Clip(a, low, high) y = Cast<to = 2>(b) }",
        ("b",),
    ),
}


@pytest.mark.parametrize(("text", "instead"), ENDS.values(), ids=ENDS)
def test_what_the_selection_reads_is_compared(
    build: Build, text: str, instead: tuple[str, ...]
) -> None:
    model = build(text, opset=11 if "axes = [2]" in text else 21, w=W)
    found = behind_selection(model, [value.name for value in model.graph.output])
    assert found is not None and set(found.outputs) == set(instead)


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) y = Tanh(a) }",
        # it selects among the inputs, before any weight
        "(float[N,16] x) => (float[N,16] y) <int64[1] k = {16}>"
        " { t, i = TopK(x, k) y = MatMul(t, w) }",
        "(float[N,16] x) => (float[N,16] y, int64[N,1] i)"
        " { y = MatMul(x, w) i = ArgMax<axis = 1>(x) }",
    ],
)
def test_outputs_that_no_computed_value_selects_are_compared_themselves(
    build: Build, text: str
) -> None:
    model = build(text, w=W)
    assert behind_selection(model, [value.name for value in model.graph.output]) is None


def test_a_mask_that_is_handed_through_is_not_compared(build: Build) -> None:
    text = """(float[N,16] x, bool[N,16] ok) => (float[N,16] x2, float[N,16] y, bool[N,16] no,
        int64[2] n, int64[N,1] i)
        { x2 = Neg(x) y = MatMul(x, w) no = Not(ok) n = Shape(ok) i = ArgMax<axis = 1>(y) }"""
    assert weighed(build(text, w=W), ["x2", "y", "no", "n", "i"]) == ("x2", "y", "i")


@pytest.mark.parametrize(
    ("text", "made", "read"),
    [
        (
            "(float[N,16] x) => (float[N,16] y)"
            " { a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = Softmax(c) }",
            ("c",),
            ("b",),
        ),
        # what it makes is an output already, and its residual comes from other weights
        (
            "(float[N,16] x) => (float[N,16] y, float[N,16] z)"
            " { a = MatMul(x, w) b = Tanh(a) z = MatMul(b, w) y = Add(a, z) }",
            ("a",),
            ("b",),
        ),
        # a product of two activations has no weights; the inputs are nothing that a model makes
        (
            "(float[N,16] x) => (float[N,N] y)"
            " { a = MatMul(x, w) t = Transpose(a) y = MatMul(a, t) }",
            (),
            (),
        ),
        ("(float[N,16] x) => (float[N,16] y) { y = MatMul(x, w) }", (), ()),
    ],
    ids=["a classifier", "a residual", "a product of activations", "one layer"],
)
def test_what_the_last_weights_make_and_read(
    build: Build, text: str, made: tuple[str, ...], read: tuple[str, ...]
) -> None:
    model = build(text, w=W)
    assert last_weights(model, [value.name for value in model.graph.output]) == (made, read)


def test_inner_tensors_become_outputs_of_a_copy(build: Build) -> None:
    model = build("(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) y = Tanh(a) }", w=W)
    shown = with_outputs(model, ["y", "a"])
    x = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    session = ort.InferenceSession(shown.SerializeToString())
    y, a = session.run(None, {"x": x})
    np.testing.assert_allclose(np.tanh(a), y, rtol=1e-5)  # float32 of two libraries
    assert [value.name for value in model.graph.output] == ["y"]
    assert with_outputs(model, ["y"]) is model


@pytest.mark.parametrize("name", ["nothing", "x", "w", "i"])
def test_only_computed_floats_can_be_compared_at(build: Build, name: str) -> None:
    text = "(float[N,16] x) => (float[N,16] y) { a = MatMul(x, w) i = Shape(a) y = Expand(a, i) }"
    with pytest.raises(InputError, match=name):
        with_outputs(build(text, w=W), [name])

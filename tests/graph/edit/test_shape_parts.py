"""A part of a shape stays that part through folding; onnxruntime says what is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import computed

from qgraph._graph.edit.fold import fold

Build = Callable[..., onnx.ModelProto]
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize("axes", ["2, 3, 4", "N, 3, 4", "N, M, K"])
@pytest.mark.parametrize(
    "text",
    [
        "y = Shape<start = 1>(x)",
        "y = Shape<end = -1>(x)",
        "y = Shape<start = -2, end = -1>(x)",
        "y = Shape<start = 2, end = 9>(x)",
        # places are counted from the start of the part
        "one = Constant<value_ints = [1]>() s = Shape<start = 1>(x) y = Gather(s, one)",
        """one = Constant<value_ints = [1]>() two = Constant<value_ints = [2]>()
        s = Shape<start = 1>(x) y = Slice(s, one, two)""",
        "a = Shape<start = 2>(x) b = Shape<end = 1>(x) y = Concat<axis = 0>(a, b)",
        """c = Constant<value = bool {1}>() r = ReduceSum<keepdims = 0>(x) z = Cast<to = 9>(r)
        y = If (z) <then_branch = t () => (int64[1] a) { a = Shape<start = 1, end = 2>(x) },
        else_branch = e () => (int64[1] b) { b = Shape<start = 2>(x) }>""",
    ],
)
def test_a_part_of_a_shape_is_still_that_part(build: Build, axes: str, text: str) -> None:
    model = build(f"(float[{axes}] x) => (int64[P] y) {{ {text} }}")
    assert np.array_equal(
        computed(fold(model), X, optimized=False), computed(model, X, optimized=False)
    )


def test_a_part_that_is_known_is_a_constant(build: Build) -> None:
    text = (
        "(float[2, 3, 4] x) => (float[2, 12] y) { s = Shape<end = 1>(x) m = Constant<value_ints ="
    )
    model = fold(build(f"{text} [-1]>() t = Concat<axis = 0>(s, m) y = Reshape(x, t) }}"))
    assert [node.op_type for node in model.graph.node] == ["Reshape"]


def test_a_part_that_is_not_known_keeps_its_name_and_its_form(build: Build) -> None:
    model = build("(float[N, 3, 4] x) => (int64[1] y) { [part] y = Shape<end = 1>(x) }")
    (node,) = fold(model).graph.node
    assert node == model.graph.node[0]

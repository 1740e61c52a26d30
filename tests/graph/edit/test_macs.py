"""MACs against counts by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.session import Provider
from qgraph._sensitivity.explain.cost import measure_macs

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("text", "weight", "x", "macs"),
    [
        # 5 rows · 3 columns · 4 products each
        ("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", (4, 3), (5, 4), 60),
        ("(float[2,N,4] x) => (float[2,N,3] y) { y = MatMul(x, w) }", (4, 3), (2, 5, 4), 120),
        ("(float[N,4] x) => (float[N,3] y) { y = Gemm(x, w) }", (4, 3), (5, 4), 60),
        ("(float[N,4] x) => (float[N,3] y) { y = Gemm<transB=1>(x, w) }", (3, 4), (5, 4), 60),
        ("(float[4,N] x) => (float[N,3] y) { y = Gemm<transA=1>(x, w) }", (4, 3), (4, 5), 60),
        # 6 channels · 6·6 places · 4·3·3 products
        (
            "(float[N,4,8,8] x) => (float[N,6,6,6] y) { y = Conv(x, w) }",
            (6, 4, 3, 3),
            (1, 4, 8, 8),
            6 * 36 * 36,
        ),
        # each output channel sees the 2 input channels of its group
        (
            "(float[N,4,8,8] x) => (float[N,6,6,6] y) { y = Conv<group = 2>(x, w) }",
            (6, 2, 3, 3),
            (1, 4, 8, 8),
            6 * 36 * 18,
        ),
        # each of 4·8 inputs goes into 6 channels · 3 places
        (
            "(float[N,4,8] x) => (float[N,6,10] y) { y = ConvTranspose(x, w) }",
            (4, 6, 3),
            (1, 4, 8),
            32 * 18,
        ),
        (
            "(float[N,4,8] x) => (float[N,6,10] y) { y = ConvTranspose<group = 2>(x, w) }",
            (4, 3, 3),
            (1, 4, 8),
            32 * 9,
        ),
    ],
)
def test_macs_are_those_counted_by_hand(
    build: Build,
    prepared: Prepare,
    text: str,
    weight: tuple[int, ...],
    x: tuple[int, ...],
    macs: int,
) -> None:
    model = prepared(build(text, w=zeros(*weight)))
    assert list(measure_macs(model, {"x": zeros(*x)}, Provider.CPU).values()) == [macs]


@pytest.mark.parametrize(
    ("text", "weights", "x", "macs"),
    [
        # 2·3·4 inner products of 5, and 2·3·6 of 4
        ('[n] y = Einsum<equation = "bsd,de->bse">(x, w)', {"w": (5, 4)}, (2, 3, 5), 120),
        ('[n] y = Einsum<equation = "...d,dhe->...he">(x, w)', {"w": (5, 2, 3)}, (2, 3, 5), 180),
        ('[n] y = Einsum<equation = "bsd->bds">(x)', {}, (2, 3, 5), 0),
        # 7 steps · 2 samples · 4 gates · 8 hidden · (5 + 8)
        (
            "[n] y, h, c = LSTM<hidden_size = 8>(x, w, r)",
            {"w": (1, 32, 5), "r": (1, 32, 8)},
            (7, 2, 5),
            7 * 2 * 32 * 13,
        ),
        (
            '[n] y, h = GRU<hidden_size = 8, direction = "bidirectional">(x, w, r)',
            {"w": (2, 24, 5), "r": (2, 24, 8)},
            (7, 2, 5),
            7 * 2 * 2 * 24 * 13,
        ),
        # the left operand constant: 4·3 results of 5 products, twice
        ("[n] y = MatMul(w, x)", {"w": (4, 5)}, (2, 5, 3), 2 * 4 * 3 * 5),
        # 3 queries on 3 keys of size 8, and as many values
        (
            "[n] y = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x)",
            {},
            (2, 3, 16),
            2 * 3 * 3 * 16 * 2,
        ),
    ],
)
def test_macs_of_what_has_no_int8_kernel_count(
    build: Build, prepared: Prepare, text: str, weights: dict[str, tuple[int, ...]],
    x: tuple[int, ...], macs: int,
) -> None:  # fmt: skip
    dims = ",".join("abcd"[: len(x)])
    model = build(f"(float[{dims}] x) => (float y) {{ {text} }}", opset=23,
                  **{name: zeros(*shape) for name, shape in weights.items()})  # fmt: skip
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = measure_macs(prepared(model), {"x": zeros(*x)}, Provider.CPU)
    assert found == {"n": macs}


BRANCHES = """(float[N,4] x) => (float[N,5] y) { s = ReduceSum<keepdims = 0>(x) c = Greater(s, z)
  [choose] y = If (c) <
    then_branch = t () => (float[N,5] a) { a = MatMul(x, w) },
    else_branch = e () => (float[N,5] b) { h = MatMul(x, v) b = MatMul(h, u) }> }"""


def test_an_if_counts_as_its_costlier_branch(build: Build, prepared: Prepare) -> None:
    model = build(BRANCHES, w=zeros(4, 5), v=zeros(4, 6), u=zeros(6, 5), z=np.float32(0))
    found = measure_macs(prepared(model), {"x": zeros(3, 4)}, Provider.CPU)
    assert found == {"choose": 3 * 4 * 6 + 3 * 6 * 5}


@pytest.mark.parametrize("trips", [1, 6])
def test_a_loop_counts_its_body_as_often_as_it_runs(
    build: Build, prepared: Prepare, trips: int
) -> None:
    text = """(float[N,4] x) => (float[N,4] y) { [again] y = Loop (m, , x) <
      body = b (int64 i, bool go, float[N,4] s) => (bool go2, float[N,4] t)
        { go2 = Identity(go) t = MatMul(s, w) }> }"""
    model = build(text, w=zeros(4, 4), m=np.array(trips))
    found = measure_macs(prepared(model), {"x": zeros(3, 4)}, Provider.CPU)
    assert found == {"again": trips * 3 * 4 * 4}

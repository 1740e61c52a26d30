"""MACs against counts by hand, and against loops over positions that count every product there is.

The loops are written from the operators' definitions and know strides, groups, dilations and
transposition; what is tested knows three shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from qgraph._graph.edit.macs import macs_by_shapes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.session import Provider
from qgraph._sensitivity.explain.cost import measure_macs

Build = Callable[..., onnx.ModelProto]
Shape = tuple[int, ...]
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
        # 3 channels of 3·3 results of 2·2·2 products each
        (
            "[n] y = DeformConv<kernel_shape = [2, 2]>(x, w, o)",
            {"w": (3, 2, 2, 2), "o": (1, 8, 3, 3)},
            (1, 2, 4, 4),
            3 * 9 * 8,
        ),
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


@pytest.mark.parametrize(
    ("text", "weights", "macs"),
    [
        # 2 samples · 3 queries on 3 keys, 16 wide, and as many values
        ("[n] y = com.microsoft.MultiHeadAttention<num_heads = 2>(x, x, x)", {}, 2 * 3 * 3 * 32),
        # 16 → 48 for each position, then as above
        (
            "[n] y = com.microsoft.Attention<num_heads = 2>(x, w, b)",
            {"w": (16, 48), "b": (48,)}, 2 * 3 * 16 * 48 + 2 * 3 * 3 * 32,
        ),
        # 2 query heads of size 8 share a key
        (
            """k = MatMul(x, v) seq = Constant<value = int32[2] {2, 2}>()
            all = Constant<value = int32 {3}>() [n] y, pk, pv = com.microsoft.GroupQueryAttention<
            num_heads = 2, kv_num_heads = 1>(x, k, k, , , seq, all)""",
            {"v": (16, 8)}, 2 * 3 * 3 * 32,
        ),
        ("[n] y = com.microsoft.FusedMatMul(x, w)", {"w": (16, 5)}, 2 * 3 * 16 * 5),
    ],
)  # fmt: skip
def test_macs_of_onnxruntimes_own_operators_count(
    build: Build, prepared: Prepare, text: str, weights: dict[str, tuple[int, ...]], macs: int
) -> None:
    arrays = {name: zeros(*shape) for name, shape in weights.items()}
    model = build(f"(float[a,b,c] x) => (float y) {{ {text} }}", **arrays)
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert measure_macs(prepared(model), {"x": zeros(2, 3, 16)}, Provider.CPU)["n"] == macs


def test_what_multiplies_in_a_body_counts_no_macs(build: Build, prepared: Prepare) -> None:
    text = """(float[N,4] x) => (float[N,4] y) { [again] y = Loop (m, , x) <
      body = b (int64 i, bool go, float[N,4] s) => (bool go2, float[N,4] t)
        { go2 = Identity(go) t = MatMul(s, w) }> }"""
    model = build(text, w=zeros(4, 4), m=np.array(6))
    assert measure_macs(prepared(model), {"x": zeros(3, 4)}, Provider.CPU) == {"again": 0}


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 8, 6, 6), (8, 8, 3, 3), ""),
        ((1, 8, 6, 6), (8, 8, 3, 3), "strides = [2, 2]"),
        ((1, 8, 6, 6), (8, 4, 3, 3), "strides = [2, 2], group = 2"),
        ((2, 8, 6, 6), (8, 1, 3, 3), "group = 8, pads = [1, 1, 1, 1]"),
        ((1, 4, 7, 5), (6, 4, 3, 2), "dilations = [2, 1], pads = [0, 1, 2, 0]"),
        ((1, 4, 7), (6, 2, 3), "group = 2, strides = [2], auto_pad = \"SAME_UPPER\""),
    ],
)  # fmt: skip
def test_a_conv_has_one_mac_for_each_term_of_each_output(
    build: Build, x: Shape, w: Shape, attributes: str
) -> None:
    y = shape_made(build, "Conv", x, w, attributes)
    groups = x[1] // w[1]
    counted = 0
    for _, m, *_ in product(*map(range, y)):
        first = m // (w[0] // groups) * w[1]
        counted += sum(1 for _ in product(range(first, first + w[1]), *map(range, w[2:])))
    assert macs("Conv", x, w, y) == counted


@pytest.mark.parametrize(
    ("x", "w", "attributes", "expected"),
    [
        ((1, 8, 6, 6), (8, 8, 3, 3), "strides = [2, 2]", 20_736),
        ((1, 8, 6, 6), (8, 4, 3, 3), "strides = [2, 2], group = 2", 10_368),
        ((1, 8, 6, 6), (8, 1, 3, 3), "strides = [2, 2], group = 8", 2_592),
        ((1, 8, 6, 6), (8, 8, 3, 3), "", 20_736),
        ((1, 8, 6, 6), (8, 8, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]", 20_736),
        ((1, 8, 6, 6), (8, 8, 3, 3), "strides = [2, 2], output_padding = [1, 1]", 20_736),
        ((1, 8, 6, 6), (8, 8, 3, 3), "strides = [2, 2], auto_pad = \"SAME_LOWER\"", 20_736),
        ((1, 8, 6, 6), (8, 8, 3, 3), "dilations = [2, 2]", 20_736),
        ((2, 4, 5), (4, 3, 2), "strides = [3]", 240),
    ],
)  # fmt: skip
def test_a_convtranspose_has_one_mac_for_each_place_an_input_is_spread_to(
    build: Build, x: Shape, w: Shape, attributes: str, expected: int
) -> None:
    y = shape_made(build, "ConvTranspose", x, w, attributes)
    groups = y[1] // w[1]
    counted = 0
    for _, c, *_ in product(*map(range, x)):
        first = c // (x[1] // groups) * w[1]
        counted += sum(1 for _ in product(range(first, first + w[1]), *map(range, w[2:])))
    assert macs("ConvTranspose", x, w, y) == counted == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((5, 4), (4, 3)),
        ((2, 5, 4), (4, 3)),
        ((2, 1, 5, 4), (3, 4, 6)),
        ((5, 4), (7, 4, 3)),
        ((4,), (4, 3)),
        ((2, 5, 4), (4,)),
        ((4,), (4,)),
    ],
)
def test_a_matmul_has_one_mac_for_each_term_of_each_output_batches_and_broadcast(
    a: Shape, b: Shape
) -> None:
    y = np.matmul(np.ones(a), np.ones(b))
    # of ones, each output is the number of its terms
    assert macs("MatMul", a, b, y.shape) == int(y.sum())


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_a_gemm_has_as_many_macs_whichever_way_its_operands_lie(
    *, trans_a: bool, trans_b: bool
) -> None:
    a, b = ((4, 5) if trans_a else (5, 4)), ((3, 4) if trans_b else (4, 3))
    counted = sum(1 for _ in product(range(5), range(3), range(4)))
    assert macs("Gemm", a, b, (5, 3), transA=int(trans_a)) == counted


def test_nothing_is_multiplied_where_there_is_no_data() -> None:
    assert macs("Gemm", (0, 4), (4, 3), (0, 3)) == 0
    assert macs("MatMul", (2, 0, 4), (4, 3), (2, 0, 3)) == 0


def shape_made(build: Build, op_type: str, x: Shape, w: Shape, attributes: str) -> Shape:
    """Return the shape that onnxruntime gives the output."""
    sizes = ",".join(map(str, x))
    free = ",".join(f"n{i}" for i in range(len(x)))
    text = f"(float[{sizes}] x) => (float[{free}] y) {{ y = {op_type}<{attributes}>(x, w) }}"
    model = build(text.replace("<>", ""), w=np.ones(w, np.float32))
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.ones(x, np.float32)})
    return tuple(np.asarray(y).shape)


def macs(op_type: str, x: Shape, w: Shape, y: Shape, **attributes: Any) -> int | None:
    node = helper.make_node(op_type, ["x", "w"], ["y"], **attributes)
    return macs_by_shapes(node, {"x": x, "w": w, "y": y})


def test_a_size_of_minus_one_is_what_the_sample_has(build: Build, prepared: Prepare) -> None:
    """As paddle2onnx writes it; multiplied as it stands, it makes any count negative."""
    model = build("(float[N,M,4] x) => (float[N,M,3] y) { [n] y = MatMul(x, w) }", w=zeros(4, 3))
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim[:2]:
            dim.dim_value = -1
    assert measure_macs(prepared(model), {"x": zeros(2, 5, 4)}, Provider.CPU) == {"n": 120}
    assert measure_macs(prepared(model), {"x": zeros(1, 1, 4)}, Provider.CPU) == {"n": 12}

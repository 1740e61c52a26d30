"""MACs against counts done by hand: a loop over positions that counts every product there is.

The loops are written from the operators' definitions and know strides, groups, dilations and
transposition; what is tested knows three shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._graph.edit.macs import multiply_accumulates

Build = Callable[..., onnx.ModelProto]
Shape = tuple[int, ...]


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
    assert multiply_accumulates("Conv", x, w, y) == counted


@pytest.mark.parametrize(
    ("x", "w", "attributes", "macs"),
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
    build: Build, x: Shape, w: Shape, attributes: str, macs: int
) -> None:
    y = shape_made(build, "ConvTranspose", x, w, attributes)
    groups = y[1] // w[1]
    counted = 0
    for _, c, *_ in product(*map(range, x)):
        first = c // (x[1] // groups) * w[1]
        counted += sum(1 for _ in product(range(first, first + w[1]), *map(range, w[2:])))
    assert multiply_accumulates("ConvTranspose", x, w, y) == counted == macs


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
    assert multiply_accumulates("MatMul", a, b, y.shape) == int(y.sum())


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
def test_a_gemm_has_as_many_macs_whichever_way_its_operands_lie(
    *, trans_a: bool, trans_b: bool
) -> None:
    a, b = ((4, 5) if trans_a else (5, 4)), ((3, 4) if trans_b else (4, 3))
    counted = sum(1 for _ in product(range(5), range(3), range(4)))
    assert multiply_accumulates("Gemm", a, b, (5, 3)) == counted


def test_nothing_is_multiplied_where_there_is_no_data() -> None:
    assert multiply_accumulates("Gemm", (0, 4), (4, 3), (0, 3)) == 0
    assert multiply_accumulates("MatMul", (2, 0, 4), (4, 3), (2, 0, 3)) == 0


def shape_made(build: Build, op_type: str, x: Shape, w: Shape, attributes: str) -> Shape:
    """Return the shape that onnxruntime gives the output."""
    sizes = ",".join(map(str, x))
    free = ",".join(f"n{i}" for i in range(len(x)))
    text = f"(float[{sizes}] x) => (float[{free}] y) {{ y = {op_type}<{attributes}>(x, w) }}"
    model = build(text.replace("<>", ""), w=np.ones(w, np.float32))
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.ones(x, np.float32)})
    return tuple(np.asarray(y).shape)

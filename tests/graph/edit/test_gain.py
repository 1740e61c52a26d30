"""What INT8 makes no faster is known from sizes alone, and said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.gain import without_gain
from qgraph._graph.index import GraphIndex

Build = Callable[..., onnx.ModelProto]
MAP = "(float[N,{c},9,9] x) => (float[N,M,H,W] y) {{ y = {op}(x, w) }}"
ROWS = "(float[{rows},{k}] x) => (float[{rows},M] y) {{ y = {op}(x, w) }}"


def why(build: Build, text: str, *shape: int) -> str:
    model = build(text, w=np.ones(shape, np.float32))
    return without_gain(GraphIndex(model), model.graph.node[-1])


@pytest.mark.parametrize(
    ("op", "channels", "shape", "reason"),
    [
        ("Conv", 3, (32, 3, 3, 3), "input channels is 3"),
        ("Conv", 32, (4, 32, 1, 1), "output channels is 4"),
        ("Conv", 16, (16, 16, 3, 3), ""),
        ("Conv<group = 32>", 32, (32, 1, 3, 3), "32 groups of 1 channels"),
        ("Conv<group = 8>", 64, (64, 8, 3, 3), "8 groups of 8 channels"),
        ("Conv<group = 2>", 32, (16, 16, 3, 3), "2 groups of 8 channels"),
        ("Conv<group = 2>", 32, (64, 16, 3, 3), ""),
        ("ConvTranspose", 64, (64, 1, 2, 2), "output channels is 1"),
        ("ConvTranspose", 8, (8, 32, 2, 2), "input channels is 8"),
        ("ConvTranspose<group = 4>", 32, (32, 16, 2, 2), "4 groups of 8 channels"),
        ("ConvTranspose", 16, (16, 16, 2, 2), ""),
        # patches side by side are rows of 3·3·3 and 3·4·4 values
        ("Conv<strides = [3, 3]>", 3, (32, 3, 3, 3), ""),
        ("Conv<strides = [4, 4]>", 3, (64, 3, 4, 4), ""),
        ("Conv<strides = [2, 2]>", 3, (64, 3, 2, 2), "input channels is 12"),
    ],
)
def test_a_convolution_needs_16_channels_in_and_out_and_in_each_group(
    build: Build, op: str, channels: int, shape: tuple[int, ...], reason: str
) -> None:
    assert why(build, MAP.format(op=op, c=channels), *shape).startswith(reason)
    assert bool(why(build, MAP.format(op=op, c=channels), *shape)) is bool(reason)


@pytest.mark.parametrize(
    ("op", "shape", "reason"),
    [
        ("MatMul", (8, 32), "K is 8, below 16"),
        ("MatMul", (32, 5), "N is 5, below 16"),
        ("MatMul", (16, 16), ""),
        ("Gemm", (32, 10), "N is 10, below 16"),
        ("Gemm<transB = 1>", (10, 32), "N is 10, below 16"),
        ("Gemm<transB = 1>", (32, 8), "K is 8, below 16"),
        ("Gemm<transB = 1>", (32, 16), ""),
    ],
)
def test_a_product_needs_a_k_and_n_of_16(
    build: Build, op: str, shape: tuple[int, int], reason: str
) -> None:
    k = shape[1] if "transB" in op else shape[0]
    found = why(build, ROWS.format(op=op, rows="N", k=k), *shape)
    assert found.startswith(reason) and bool(found) is bool(reason)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_product_of_one_row_waits_for_its_weight(build: Build, op: str) -> None:
    alone, two, any_number = (
        why(build, ROWS.format(op=op, rows=rows, k=64), 64, 64) for rows in ("1", "2", "N")
    )
    assert alone.startswith("it computes one row") and not two and not any_number


@pytest.mark.parametrize("batch", ["1", "N"])
def test_a_convolution_on_a_pooled_map_computes_one_row(build: Build, batch: str) -> None:
    text = (
        f"(float[{batch},32,9,9] x) => (float[{batch},M,1,1] y)"
        " { p = GlobalAveragePool(x) y = Conv(p, w) }"
    )
    assert why(build, text, 32, 32, 1, 1).startswith("it computes one row")
    assert not why(build, MAP.format(op="Conv", c=32), 32, 32, 1, 1)

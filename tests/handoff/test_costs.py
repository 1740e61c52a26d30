"""MACs from shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from graph.rules.qdq_graph import QdqGraph
from handoff.costs import macs_of

Build = Callable[..., onnx.ModelProto]


@pytest.mark.parametrize(
    ("text", "weight", "size", "macs"),
    [
        ("(float[b, s, 8] x) => (float[b, s, 4] y) { [n] y = MatMul(x, w) }", (8, 4), (2, 5, 8),
         2 * 5 * 8 * 4),
        ("(float[b, 8] x) => (float[b, 4] y) { [n] y = Gemm<transB = 1>(x, w) }", (4, 8), (3, 8),
         3 * 8 * 4),
        ("(float[b, 8, 6, 6] x) => (float[b, 4, 4, 4] y) { [n] y = Conv(x, w) }", (4, 8, 3, 3),
         (2, 8, 6, 6), 2 * 4 * 4 * 4 * 8 * 9),
        ("(float[b, 8, 6, 6] x) => (float[b, 8, 4, 4] y) { [n] y = Conv<group = 8>(x, w) }",
         (8, 1, 3, 3), (1, 8, 6, 6), 8 * 16 * 9),
        ("(float[b, 8, 3, 3] x) => (float[b, 4, 6, 6] y)"
         " { [n] y = ConvTranspose<strides = [2, 2]>(x, w) }", (8, 4, 2, 2), (1, 8, 3, 3),
         4 * 36 * 8),
    ],
)  # fmt: skip
def test_macs_of_each_operator(
    build: Build, text: str, weight: tuple[int, ...], size: tuple[int, ...], macs: int
) -> None:
    graph = QdqGraph(build(text, w=np.ones(weight, np.float32)), Path())
    assert macs_of(graph, {"x": size}) == {"n": macs}


def test_products_of_activations_count(build: Build) -> None:
    text = "(float[b, s, 8] x, float[b, 8, s] z) => (float[b, s, s] y) { [n] y = MatMul(x, z) }"
    graph = QdqGraph(build(text), Path())
    assert macs_of(graph, {"x": (2, 5, 8), "z": (2, 8, 5)}) == {"n": 2 * 5 * 5 * 8}

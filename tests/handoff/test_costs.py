"""MACs, by the shapes that tensors have when the model is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.tensors import Feed
from qgraph._handoff.running import measured_macs

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
        ("(float[b, 8, 6, 6] x) => (float[b, 8, 13, 13] y)"
         " { [n] y = ConvTranspose<strides = [2, 2], group = 2>(x, w) }", (8, 4, 3, 3),
         (1, 8, 6, 6), 8 * 36 * 4 * 9),
        ("(float[b, 8, 3, 3] x) => (float[b, 4, h, w] y)"
         " { c = Relu(w) [n] y = ConvTranspose<auto_pad = \"SAME_UPPER\">(x, c) }", (8, 4, 2, 2),
         (1, 8, 3, 3), 8 * 9 * 4 * 4),
    ],
)  # fmt: skip
def test_macs_of_each_operator(
    build: Build, tmp_path: Path, text: str, weight: tuple[int, ...], size: tuple[int, ...],
    macs: int,
) -> None:  # fmt: skip
    model = build(text, w=np.ones(weight, np.float32))
    assert counted(model, tmp_path, x=size) == {"n": macs}


def test_products_of_activations_count(build: Build, tmp_path: Path) -> None:
    """Also where shapes are worked out at run time, which no inference follows."""
    text = """(float[b, s, 8] x, int64[3] to) => (float[b, h, t] y)
    { z = Reshape(x, to) [n] y = MatMul(x, z) }"""
    model = build(text)
    onnx.save(model, tmp_path / "m.onnx")
    feed: Feed = {"x": np.ones((2, 5, 8), np.float32), "to": np.array([2, 8, 5], np.int64)}
    found = measured_macs(model, tmp_path / "m.onnx", feed)
    assert found == {"n": 2 * 5 * 5 * 8}


def counted(model: onnx.ModelProto, folder: Path, **sizes: tuple[int, ...]) -> dict[str, int]:
    onnx.save(model, folder / "m.onnx")
    feed = {name: np.ones(size, np.float32) for name, size in sizes.items()}
    return measured_macs(model, folder / "m.onnx", feed)

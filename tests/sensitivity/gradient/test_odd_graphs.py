"""Graphs with what exporters write and few expect: estimates are there, and near exact scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built

import qgraph

GRAPHS = {
    "an input is an output, too": (
        "(float[N,8,32] x) => (float[N,8,32] y, float[N,8,32] x)"
        " { a = MatMul(x, w0) b = Tanh(a) y = MatMul(b, w1) }"
    ),
    "a part that holds no row": (
        "(float[N,8,32] x) => (float[N,S,32] y)"
        " <int64[1] first = {0}, int64[1] end = {0}, int64[1] rows = {1}>"
        " { n = ReduceSum<keepdims = 0>(x) z = Mul(n, none) k = Cast<to = 7>(z)"
        " e = Reshape(k, rows) a = MatMul(x, w0) b = Tanh(a) p = Slice(b, first, e, rows)"
        " q = Concat<axis = 1>(p, b) y = MatMul(q, w1) }"
    ),
    "all behind an operator that ONNX does not know": (
        "(float[N,32] x) => (float[N,32] y)"
        " { a = MatMul(x, w0) b = com.microsoft.FastGelu(a) c = MatMul(b, w1)"
        " y = ai.onnx.ml.Normalizer<norm = \"L2\">(c) }"
    ),
    "a threshold at the end": (
        "(float[N,8,32] x) => (bool[N,8,32] y)"
        " { a = MatMul(x, w0) b = Tanh(a) c = MatMul(b, w1) y = Greater(c, none) }"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
def test_estimates_are_near_exact_scores(tmp_path: Path, text: str) -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((32, 32)).astype(np.float32) / 6 for n in ("w0", "w1")}
    model = built(text, none=np.array(0, np.float32), **weights)
    for domain in ("ai.onnx.ml", "com.microsoft"):
        model.opset_import.add(domain=domain, version=1)
    onnx.save(model, tmp_path / "m.onnx")
    shape = (8, 8, 32) if "8,32] x" in text else (8, 32)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal(shape).astype(np.float32))
    estimated, exact = (
        qgraph.sensitivity(
            tmp_path / "m.onnx", data=tmp_path / "x.npz", small=True, fast=True, engine=engine
        )[0]
        for engine in ("gradient", "wavefront")
    )
    right = {node.name: node.solo.mse for node in exact.nodes if node.solo}
    found = {node.name: node.solo.mse for node in estimated.nodes if node.solo}
    assert found.keys() == right.keys() and len(right) == 2
    assert all(0.3 < found[name] / mse < 3 for name, mse in right.items())

"""A variant whose outputs cannot be compared is listed; the others are ranked all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qgraph

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[batch, 4] x) => (float[batch, 4] y) {
  h = MatMul(x, a)
  p = Relu(h)
  r = Add(p, tiny)
  l = Log(r)
  y = MatMul(l, b)
}
"""
"""Log of a value that is tiny but positive in float: rounding it to 0 gives −infinity."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(MODEL)
    rng = np.random.default_rng(0)
    # One column is a thousandth of the others: per-tensor activations cannot hold it, but weights
    # are per channel, so only an error in the activation reaches it.
    weights = {
        "a": np.diag([1.0, 1.0, 1.0, 1e-4]).astype(np.float32),
        "b": rng.standard_normal((4, 4)).astype(np.float32),
        "tiny": np.zeros(4, np.float32),
    }
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for node, name in zip(proto.graph.node, ("n_h", "relu", "add", "log", "n_y"), strict=True):
        node.name = name
    onnx.save(proto, tmp_path / "m.onnx")
    x = np.array([[10.0, 5.0, 7.0, 0.01]], np.float32)  # the last rounds to 0 at 10/127 a step
    np.savez(tmp_path / "d.npz", x=x)
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("engine", ["wavefront", "switch"])
def test_the_node_that_breaks_the_output_is_unscored_with_a_reason(
    model: Path, engine: str
) -> None:
    report, _ = qgraph.sensitivity(model, data=[model.with_name("d.npz")], engine=engine, fast=True)
    assert [node.name for node in report.nodes] == ["n_y"]
    assert [node.name for node in report.unscored] == ["n_h"]
    assert "infinite" in report.unscored[0].reason


def test_profiles_keep_an_unscored_node_float(model: Path) -> None:
    report, _ = qgraph.sensitivity(model, data=[model.with_name("d.npz")], fast=True)
    everything = qgraph.profile(report, cuts={"D": 1.0}).profiles[0]
    assert everything.quantize == ("n_y",)
    assert "n_h" in [keep.name for keep in everything.keep]

"""The Gauss-Newton lens: traces are those of torch's Jacobians."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.io.documents import write_document
from qgraph._quantize.arithmetic import fake_quantize, largest_value_scale
from qgraph._sensitivity.ranking.files import Source, Which, read_rankings
from qgraph._sensitivity.report import Sensitivity

LINEARS = """
linears (float[batch, 8] x) => (float[batch, 5] y)
{
  [/a/MatMul] h = MatMul(x, wa)
  t = Tanh(h)
  [/b/Gemm] y = Gemm<transB = 1>(t, wb, bias)
}
"""
PICTURES = """
pictures (float[1, 2, 6, 6] x) => (float[1, 1, 3, 3] y)
{
  [/a/Conv] h = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, wa)
  t = Tanh(h)
  [/b/Conv] y = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(t, wb)
}
"""


def weights_of(path: Path) -> dict[str, Any]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def check(path: Path, forward: Any, x: Any, score: Any, axes: dict[str, int]) -> None:
    """Compare every node's lens with the Jacobian of `forward(x, **weights)` by torch."""
    torch = pytest.importorskip("torch")
    weights = {name: torch.tensor(array) for name, array in weights_of(path).items()}
    found: Sensitivity = score(path, feeds=[{"x": x}], engine="gradient", gauss_newton=True)
    read = {
        node.name: node.input[1] for node in prepare(path).model.graph.node if len(node.input) > 1
    }
    assert [node.name for node in found.nodes] == list(axes)
    for node in found.nodes:
        name = read[node.name]

        def outputs(weight: Any, name: str = name) -> Any:
            return forward(torch.tensor(x), **{**weights, name: weight})

        jacobian = torch.func.jacrev(outputs)(weights[name])
        array, axis = weights[name].numpy(), axes[node.name]
        rounded = fake_quantize(array, largest_value_scale(array, axis), axis)
        count = outputs(weights[name]).numel()
        expected = float((jacobian**2).sum()) * np.mean((rounded - array) ** 2) / count
        assert node.gauss_newton == pytest.approx(expected, rel=1e-3)


def test_traces_of_linears_are_those_of_torch(build: Any, score: Any) -> None:
    torch = pytest.importorskip("torch")
    path = build(LINEARS, {"wa": (8, 16), "wb": (5, 16), "bias": (5,)})
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)  # 15 outputs

    def forward(x: Any, wa: Any, wb: Any, bias: Any) -> Any:
        return torch.tanh(x @ wa) @ wb.T + bias

    check(path, forward, x, score, {"/a/MatMul": 1, "/b/Gemm": 0})


def test_traces_of_convolutions_are_those_of_torch(build: Any, score: Any) -> None:
    torch = pytest.importorskip("torch")
    path = build(PICTURES, {"wa": (4, 2, 3, 3), "wb": (1, 4, 3, 3)})
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32)  # 9 outputs

    def forward(x: Any, wa: Any, wb: Any) -> Any:
        convolve = torch.nn.functional.conv2d
        inner = torch.tanh(convolve(x, wa, stride=2, padding=1))
        return convolve(inner, wb, padding=2, dilation=2)

    check(path, forward, x, score, {"/a/Conv": 0, "/b/Conv": 0})


def test_the_lens_adds_up_over_samples_parts_and_runs(
    siblings: Path, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the same sample is the same mean; part by part is the same, too."""
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    given = {"engine": "gradient", "gauss_newton": True}
    one = score(siblings, feeds=[{"x": x}], **given)
    two = score(siblings, feeds=[{"x": x}] * 2, **given)
    parts = "qgraph._sensitivity.engines.gradient.parts"
    monkeypatch.setattr(f"{parts}.most_weights", lambda *_: 1)
    apart = score(siblings, feeds=[{"x": x}], **given)
    for a, b, c in zip(one.nodes, two.nodes, apart.nodes, strict=True):
        assert a.gauss_newton == pytest.approx(b.gauss_newton, rel=1e-6)
        assert a.gauss_newton == pytest.approx(c.gauss_newton, rel=1e-4)


def test_compare_ranks_by_it(siblings: Path, score: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    report = score(
        siblings, feeds=[{"x": x}], engine="gradient", metric="sqnr_db", gauss_newton=True
    )
    write_document(tmp_path / "s.json", report)
    (ranking,) = read_rankings([Source(tmp_path / "s.json", "lens", Which.GAUSS_NEWTON)])
    assert ranking.scores == {node.name: node.gauss_newton for node in report.nodes}
    # it is in the units of MSE, and so must be what a tie is a share of
    assert report.baseline is not None and ranking.total == report.baseline.all_quantized.mse
    assert not any("SQNR" in note for note in ranking.notes)


GROUPED = """
grouped (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y)
{
  [/a/Conv] h = Conv<pads = [1, 1, 1, 1], group = 2>(x, wa)
  t = Tanh(h)
  [/b/Conv] y = Conv<pads = [1, 1, 1, 1], group = 2>(t, wb)
}
"""


def test_where_no_node_has_a_trace_none_gets_one(build: Any, score: Any) -> None:
    path = build(GROUPED, {"wa": (4, 2, 3, 3), "wb": (4, 2, 3, 3)})
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    options = {"gauss_newton": True, "schemes": ("int8", "weight-int8")}
    found = score(path, feeds=[{"x": x}], engine="gradient", **options)
    assert [node.gauss_newton for node in found.nodes] == [None, None]

"""`qgraph quantize --bias-correction`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Command = Callable[..., Any]
NET = """(float[batch, 16] x) => (float[batch, 16] y)
{ [in] p = Gemm(x, w, b) h = Relu(p) [out] q = MatMul(h, v) y = Add(q, c) }"""


@pytest.fixture
def net(build: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    shapes = {"w": (16, 16), "b": (16,), "v": (16, 16), "c": (16,)}
    arrays = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    path = tmp_path / "model.onnx"
    onnx.save(build(NET, **arrays), path)
    return path


def metadata(path: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(path).metadata_props}


def test_biases_are_corrected_where_asked(qgraph: Command, net: Path, make_data: Any) -> None:
    folder, data = net.parent, make_data(net.parent / "data.npz", samples=64)
    hard = ("--data", data, "--calibrate", "percentile", "--percentile", "90")
    assert qgraph("sensitivity", "--fast", net, *hard, "-o", folder / "s.json").code == 0
    assert qgraph("profile", folder / "s.json", "-o", folder / "p.json").code == 0
    common = ("--profiles", folder / "p.json", "--ranges", folder / "ranges.json")
    found = {}
    for name, more in {
        "plain": (),
        "mended": ("--bias-correction", "--data", data, "--samples", "64"),
    }.items():
        result = qgraph("quantize", net, *common, *more, "-o", folder / name)
        assert result.code == 0, result.err
        output = folder / f"{name}.json"
        arguments = (net, folder / name / "D.onnx", "--data", data, "--json", "-o", output)
        found[name] = qgraph("evaluate", *arguments).json["variants"][1]["metrics"]["mse"]
    # clipping a tenth of all values shifts means; a shift is part of the error
    assert found["mended"] < found["plain"]
    assert metadata(folder / "mended/D.onnx")["qgraph.corrected_biases"] == "2"
    assert "qgraph.corrected_biases" not in metadata(folder / "plain/D.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--bias-correction needs --data"),
        (("--backend", "inc", "--data", "x.npz"), "--bias-correction goes with qgraph's own"),
    ],
)
def test_what_it_needs_is_said(
    qgraph: Command, net: Path, options: tuple[str, ...], message: str
) -> None:
    arguments = ("--profiles", net.parent / "p.json", "--bias-correction", *options)
    result = qgraph("quantize", net, *arguments, "-o", net.parent / "out")
    assert result.code == 2 and message in result.err

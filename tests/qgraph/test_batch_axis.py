"""Samples along an axis that the model does not name: who feeds it says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Build = Callable[..., onnx.ModelProto]
STATE = """(float[N,32] x, float[2,M,32] state) => (float[N,32] y, float[2,M,32] next) {
  [project] a = MatMul(x, w0) b = Tanh(a)
  next = Add(state, b)
  s = ReduceMean<axes = [0], keepdims = 0>(next)
  [read] y = MatMul(s, w1)
}"""
STEPS = """(float[T,B,32] x, float[1,B,32] h) => (float[T,B,32] y) {
  [project] a = MatMul(x, w0) b = Tanh(a)
  c = Add(b, h)
  [read] y = MatMul(c, w1)
}"""
MODELS: dict[str, tuple[Any, ...]] = {
    "a state of two layers": (STATE, {"x": (6, 32), "state": (2, 6, 32)}, ["state=1"], 6),
    "time first": (
        STEPS, {"x": (5, 4, 32), "h": (1, 4, 32)}, ["x=1", "h=1"], 4,
    ),
}  # fmt: skip


def save(build: Build, folder: Path, text: str, sizes: dict[str, tuple[int, ...]]) -> Any:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((32, 32)).astype(np.float32) / 6 for n in ("w0", "w1")}
    onnx.save(build(text, opset=13, **weights), folder / "m.onnx")
    arrays = {n: rng.standard_normal(size).astype(np.float32) for n, size in sizes.items()}
    np.savez(folder / "x.npz", **arrays)
    return folder / "m.onnx", folder / "x.npz"


@pytest.mark.parametrize(("text", "sizes", "axes", "count"), MODELS.values(), ids=MODELS)
def test_samples_along_the_axis_given_go_through_the_whole_chain(
    qgraph: Any, build: Build, tmp_path: Path, text: str, sizes: Any, axes: list[str], count: int
) -> None:
    model, data = save(build, tmp_path, text, sizes)
    given = ["--data", data, *(part for axis in axes for part in ("--batch-axis", axis))]
    report = tmp_path / "s.json"
    assert qgraph("sensitivity", "--fast", model, *given, "-o", report).code == 0
    found = json.loads(report.read_text())
    assert found["run"]["samples"] == count and not found["run"]["synthetic"]
    # a sample beyond the ranges of the others is clipped, which costs some decibels
    assert all(15 < node["solo"]["sqnr_db"] < 60 for node in found["nodes"])
    assert qgraph("profile", report, "-o", tmp_path / "p.json").code == 0
    made = ("--profiles", tmp_path / "p.json", *given, "-o", tmp_path / "q")
    assert qgraph("quantize", model, *made).code == 0
    last = tmp_path / "q" / "D.onnx"
    out = tmp_path / "e.json"
    assert qgraph("evaluate", model, last, *given, "-o", out).code == 0
    assert json.loads(out.read_text())["run"]["samples"] == count
    bundle = tmp_path / "b"
    assert qgraph("handoff", last, "--source", model, *given, "-o", bundle).code == 0


def test_without_it_the_first_axis_is_taken_and_the_counts_do_not_agree(
    qgraph: Any, build: Build, tmp_path: Path
) -> None:
    model, data = save(build, tmp_path, *MODELS["a state of two layers"][:2])
    result = qgraph("sensitivity", "--fast", model, "--data", data, "-o", tmp_path / "s.json")
    assert result.code == 3 and "differ in their number of samples" in result.err


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("state", "no input and axis"),
        ("gone=1", "inputs are x, state"),
        ("state=3", "no such axis"),
        ("state=-1", "no input and axis"),
    ],
)
def test_an_axis_that_is_none_is_a_usage_error(
    qgraph: Any, build: Build, tmp_path: Path, axis: str, said: str
) -> None:
    model, data = save(build, tmp_path, *MODELS["a state of two layers"][:2])
    given = ("--data", data, "--batch-axis", axis, "-o", tmp_path / "s.json")
    result = qgraph("sensitivity", "--fast", model, *given)
    assert result.code == 2 and said in result.err

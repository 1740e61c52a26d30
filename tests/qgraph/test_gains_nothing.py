"""What INT8 makes no faster stays float in every family, is scored where asked, and lint agrees."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Build = Callable[..., onnx.ModelProto]
SQUEEZED = """(float[N,3,24,24] x) => (float[N,1,24,24] y) {
  [stem] a = Conv<pads = [1,1,1,1]>(x, w0) b = Relu(a)
  [depthwise] c = Conv<pads = [1,1,1,1], group = 32>(b, w1)
  [pointwise] d = Conv(c, w2) e = Relu(d)
  p = GlobalAveragePool(e)
  [squeeze] f = Conv(p, w3) g = HardSigmoid(f) h = Mul(e, g)
  [after] k = Conv<pads = [1,1,1,1], group = 32>(h, w1)
  [body] i = Conv<pads = [1,1,1,1]>(k, w4) j = Relu(i)
  [head] y = Conv(j, w5)
}"""
SQUEEZED_SIZES = {
    "w0": (32, 3, 3, 3), "w1": (32, 1, 3, 3), "w2": (32, 32, 1, 1),
    "w3": (32, 32, 1, 1), "w4": (32, 32, 3, 3), "w5": (1, 32, 1, 1),
}  # fmt: skip
CLASSIFIER = """(float[1,16,24] x) => (float[1,8] y) {
  [mix] a = MatMul(x, w0) b = Tanh(a)
  m = ReduceMean<axes = [1], keepdims = 0>(b)
  [gate] c = Gemm(m, w1) d = Sigmoid(c)
  [last] y = Gemm<transB = 1>(d, w2)
}"""
CLASSIFIER_SIZES = {"w0": (24, 32), "w1": (32, 32), "w2": (8, 32)}
MODELS = {
    "squeeze and excite": (SQUEEZED, 21, SQUEEZED_SIZES, {"pointwise", "body"}),
    "a classifier of one picture": (CLASSIFIER, 13, CLASSIFIER_SIZES, {"mix"}),
}


def save(build: Build, folder: Path, text: str, opset: int, sizes: Mapping[str, Any]) -> Path:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) / 4 for n, s in sizes.items()}
    onnx.save(build(text, opset, **weights), folder / "model.onnx")
    return folder / "model.onnx"


def scored(path: Path) -> set[str]:
    return {node["name"] for node in json.loads(path.read_text())["nodes"]}


@pytest.mark.parametrize(("text", "opset", "sizes", "gains"), MODELS.values(), ids=MODELS)
def test_only_what_gains_is_a_candidate_and_lint_has_nothing_against_what_is_written(
    qgraph: Any, build: Build, tmp_path: Path, text: str, opset: int, sizes: Any, gains: set[str]
) -> None:
    model, report = save(build, tmp_path, text, opset, sizes), tmp_path / "sensitivity.json"
    assert qgraph("sensitivity", model, "-o", report).code == 0
    assert scored(report) == gains
    kept = {item["name"]: item["reason"] for item in json.loads(report.read_text())["keep"]}
    assert kept and all("INT8 gains nothing over float" in reason for reason in kept.values())
    assert qgraph("profile", report, "-o", tmp_path / "p.json").code == 0
    given = ("--profiles", tmp_path / "p.json", "--ranges", tmp_path / "ranges.json")
    assert qgraph("quantize", model, *given, "-o", tmp_path).code == 0
    assert qgraph("lint", tmp_path / "D.onnx", "--json").json["findings"] == []


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (("--small",), {"stem", "depthwise", "squeeze", "after", "head"}),
        (("--include", "^stem$"), {"stem"}),
        (("--small", "--exclude", "head"), {"stem", "depthwise", "squeeze", "after"}),
    ],
)
def test_who_wants_them_scored_says_so(
    qgraph: Any, build: Build, tmp_path: Path, asked: tuple[str, ...], more: set[str]
) -> None:
    model = save(build, tmp_path, SQUEEZED, 21, SQUEEZED_SIZES)
    report = tmp_path / "sensitivity.json"
    assert qgraph("sensitivity", "--fast", model, *asked, "-o", report).code == 0
    assert scored(report) == {"pointwise", "body"} | more


@pytest.mark.parametrize("nodes", ["MatMul(x, w0) ", "Gemm(x, w0) "])
def test_a_model_of_nothing_else_is_scored_all_the_same_with_a_warning(
    qgraph: Any, build: Build, tmp_path: Path, nodes: str
) -> None:
    text = f"(float[N,8] x) => (float[N,8] y) {{ [only] a = {nodes} y = Tanh(a) }}"
    model, report = save(build, tmp_path, text, 21, {"w0": (8, 8)}), tmp_path / "s.json"
    result = qgraph("sensitivity", model, "-o", report)
    assert result.code == 0 and scored(report) == {"only"}
    assert "too small for INT8 to gain" in result.err
    assert qgraph("sensitivity", model, "--small", "-o", report).err.count("too small") == 0


def test_shares_are_of_the_macs_unless_others_are_asked_for(
    qgraph: Any, build: Build, tmp_path: Path
) -> None:
    model, report = save(build, tmp_path, SQUEEZED, 21, SQUEEZED_SIZES), tmp_path / "s.json"
    assert qgraph("sensitivity", model, "-o", report).code == 0
    profiles = tmp_path / "p.json"
    # body is 9 of 10 parts of the MACs: half of them is nearest to it, half of two nodes is one
    for by, half in (((), ["body"]), (("--by", "macs"), ["body"]), (("--by", "nodes"), None)):
        assert qgraph("profile", report, *by, "-o", profiles).code == 0
        found = {p["name"]: p["quantize"] for p in json.loads(profiles.read_text())["profiles"]}
        assert len(found["B"]) == 1 and half in (found["B"], None)


def test_what_stays_float_has_its_share_of_all_macs(
    build: Build, qgraph: Any, tmp_path: Path
) -> None:
    """By hand, for a row of 4: 4·32·64, the product 4·64·4, 4·64·3."""
    text = """(float[4, 32] x) => (float[4, 4] p, float[4, 3] y) {
      [wide] a = MatMul(x, w0) [narrow] y = MatMul(a, w1)
      t = Transpose(a) [product] p = MatMul(a, t)
    }"""
    weights = {"w0": np.ones((32, 64), np.float32), "w1": np.ones((64, 3), np.float32)}
    onnx.save(build(text, **weights), tmp_path / "m.onnx")
    report, out = tmp_path / "s.json", tmp_path / "p.json"
    given = ("--samples", 1, "--fast", "--exclude", "wide", "--include", "narrow")
    assert qgraph("sensitivity", tmp_path / "m.onnx", *given, "-o", report).code == 0
    macs = {"wide": 4 * 32 * 64, "product": 4 * 64 * 4, "narrow": 4 * 64 * 3}
    scored = json.loads(report.read_text())
    assert {node["name"]: node["macs"] for node in (*scored["nodes"], *scored["keep"])} == macs
    said = qgraph("profile", report, "--cut", "D=1", "-o", out).out
    (profile,) = json.loads(out.read_text())["profiles"]
    total, kept = sum(macs.values()), ("wide", "product")
    shares = {item["name"]: item["macs_share"] for item in profile["keep"]}
    assert shares == pytest.approx({name: macs[name] / total for name in kept})
    first = f"{macs['wide'] / total:.1%}: excluded by the user"
    assert f"{sum(shares.values()):.1%} of all MACs ({first}; " in " ".join(said.split())

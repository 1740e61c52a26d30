"""Schemes side by side: each one's scores are those of a run under it alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import qgraph
from qgraph._cli.cli import cli
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import read_document
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.scheme import Calibration, Scheme, SchemeName
from qgraph._sensitivity.explain.schemes import summary
from qgraph._sensitivity.report import NodeScore, Score, Sensitivity
from qgraph._sensitivity.scoring.journal import folder_of, open_journal

NAMES = ("int8", "fp8", "int8:mse", "weight-int8", "weight-int4")
WIDE = """
wide (float[batch, 300] x) => (float[batch, 20] y)
{
  [/a/MatMul] h = MatMul(x, wa)
  t = Tanh(h)
  [/b/Gemm] y = Gemm<transB = 1>(t, wb)
}
"""


@pytest.fixture
def wide(build: Any) -> Path:
    """Two linears that read 300 and 160 channels: blocks of 128 do not go into them."""
    path: Path = build(WIDE, {"wa": (300, 160), "wb": (20, 160)})
    return path


def feeds_for(path: Path, count: int, batch: int) -> list[Feed]:
    generator = np.random.default_rng(0)
    value = onnx.load(path).graph.input[0]
    shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
    return [{value.name: generator.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def of(report: Sensitivity, name: str) -> dict[str, Score]:
    return {node.name: node.schemes[name] for node in report.nodes if node.schemes}


def alone(report: Sensitivity) -> dict[str, Score]:
    return {node.name: node.solo for node in report.nodes if node.solo}


@pytest.mark.parametrize(
    ("fixture", "name", "scheme"),
    [
        ("siblings", "fp8", Scheme(name=SchemeName.FP8)),
        ("siblings", "int8:mse", Scheme(calibrate=Calibration.MSE)),
        ("cnn", "int8:mse", Scheme(calibrate=Calibration.MSE)),  # too few channels for FP8
    ],
)
def test_scores_are_those_of_a_run_under_that_scheme_alone(
    fixture: str, name: str, scheme: Scheme, score: Any, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(fixture)
    feeds = feeds_for(path, 3, batch=8)
    together = score(path, feeds=feeds, engine="gradient", schemes=NAMES)
    by_itself = score(path, feeds=feeds, engine="gradient", scheme=scheme)
    assert of(together, name).keys() == alone(by_itself).keys()
    for node, expected in alone(by_itself).items():
        assert of(together, name)[node].mse == pytest.approx(expected.mse, rel=1e-5)
    (told,) = (item for item in together.schemes if item.name == name)
    assert told.scheme == scheme
    whole = by_itself.baseline.all_quantized.mse
    # of other schemes that is an estimate, of the file's own it was measured, and so it is said
    assert 0.5 < told.all_quantized.mse / whole < 2
    first, *others = summary(together)
    assert "everything quantized (measured)" in first
    assert all("everything quantized (estimated)" in line for line in others)


def test_fp8_is_near_the_exact_engine(siblings: Path, score: Any) -> None:
    feeds = feeds_for(siblings, 8, batch=64)
    found = of(score(siblings, feeds=feeds, engine="gradient", schemes=NAMES), "fp8")
    exact = alone(score(siblings, feeds=feeds, scheme=Scheme(name=SchemeName.FP8)))
    assert all(0.8 < found[name].mse / exact[name].mse < 1.25 for name in exact)


def test_other_schemes_change_no_bit_of_the_first_ones_scores(siblings: Path, score: Any) -> None:
    feeds = feeds_for(siblings, 3, batch=8)
    several = score(siblings, feeds=feeds, engine="gradient", schemes=NAMES)
    one = score(siblings, feeds=feeds, engine="gradient")
    assert alone(several) == alone(one)
    assert one.schemes is None and one.nodes[0].schemes is None


def rounded(weight: Array, bits: int, block: int) -> Array:
    """Return a weight [channels, reads] in `bits` bits, a scale for each `block` of a channel."""
    most, made = 2 ** (bits - 1) - 1, weight.astype(np.float64)
    for start in range(0, weight.shape[1], block):
        part = made[:, start : start + block]
        scale = np.abs(part).max(1, keepdims=True) / most
        part[...] = np.clip(np.rint(part / scale), -most - 1, most) * scale
    return made.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "bits", "block"), [("weight-int8", 8, 1000), ("weight-int4", 4, 128)]
)
def test_weights_alone_do_what_the_model_with_rounded_weights_does(
    wide: Path, name: str, bits: int, block: int, score: Any
) -> None:
    # small enough that Tanh does not saturate
    feeds = [{"x": 0.03 * feed["x"]} for feed in feeds_for(wide, 4, batch=256)]
    found = of(score(wide, feeds=feeds, engine="gradient", schemes=("int8", name)), name)
    for node, tensor, turned in (("/a/MatMul", "wa", True), ("/b/Gemm", "wb", False)):
        model = onnx.load(wide)
        (proto,) = (item for item in model.graph.initializer if item.name == tensor)
        weight = numpy_helper.to_array(proto)
        made = rounded(weight.T, bits, block).T if turned else rounded(weight, bits, block)
        proto.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), tensor))
        apart = [
            (a - b) ** 2
            for a, b in zip(run(onnx.load(wide), feeds), run(model, feeds), strict=True)
        ]
        assert found[node].mse / np.mean(apart) == pytest.approx(1, abs=0.3)


def run(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[Array]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [session.run(None, feed)[0] for feed in feeds]


def test_a_run_that_was_killed_goes_on_to_the_same_scores_of_every_scheme(
    siblings: Path, score: Any, tmp_path: Path
) -> None:
    feeds = feeds_for(siblings, 4, batch=16)
    given = {"feeds": feeds, "engine": "gradient", "schemes": NAMES}
    once = score(siblings, **given)
    with open_journal(tmp_path / "half", {}) as journal:
        whole = score(siblings, journal=journal, **given)
    with open_journal(tmp_path / "half", {}) as journal:
        again = score(siblings, journal=journal, **given)
        for file in folder_of(tmp_path / "half").glob("formats-*"):
            file.unlink()
    assert once.nodes == whole.nodes == again.nodes
    with open_journal(tmp_path / "half", {}) as journal:
        bare = score(siblings, journal=journal, **given)
    assert bare.schemes is None and any("--fresh" in text for text in bare.run.warnings)


def test_a_node_that_is_measured_has_the_first_schemes_score_alone(build: Any, score: Any) -> None:
    path = build(
        "steps (float[batch, 8] x) => (float[batch, 6] y)"
        " { [/a/MatMul] h = MatMul(x, wa) r = Round(h) [/b/MatMul] y = MatMul(r, wb) }",
        {"wa": (8, 16), "wb": (16, 6)},
    )
    found = score(path, feeds=feeds_for(path, 3, 8), engine="gradient", schemes=("int8", "fp8"))
    above, below = found.nodes
    assert above.solo is not None and above.schemes is None
    assert below.schemes is not None


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"schemes": "weight-int4"}, "int8 or fp8: ranks go by it"),
        ({"schemes": "int8,int2"}, "int2"),
        ({"schemes": "int8,fp8:entropy"}, "entropy"),
        ({"schemes": "int8,fp8,fp8"}, "fp8 twice"),
        ({"schemes": "fp8,int8", "scheme": Scheme()}, "begins with fp8"),
        ({"schemes": "int8,fp8", "engine": "wavefront"}, "does not go with --engine wavefront"),
    ],
)
def test_what_does_not_go_together_is_refused(
    siblings: Path, given: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        qgraph.sensitivity(siblings, **({"engine": "gradient"} | given), fast=True)


def test_the_command_names_the_best_scheme_and_the_table_holds_all(
    siblings: Path, tmp_path: Path
) -> None:
    output = tmp_path / "s.json"
    command = ["sensitivity", str(siblings), "--engine", "gradient", "--schemes", "fp8,int8"]
    found = CliRunner().invoke(cli, [*command, "-o", str(output)])
    assert found.exit_code == 0, found.output
    report = read_document(output, Sensitivity)
    assert report.scheme.name is SchemeName.FP8
    best = sum(better(node) for node in report.nodes)
    assert f"the best of 2 at {best} of 4 nodes" in found.stdout
    assert "| rank | node | fp8 | int8 |" in output.with_suffix(".md").read_text()


def better(node: NodeScore) -> bool:
    assert node.solo is not None and node.schemes is not None
    return node.solo.mse < node.schemes["int8"].mse

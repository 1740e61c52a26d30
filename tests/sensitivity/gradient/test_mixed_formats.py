"""Nodes in INT8 or FP8, whichever does less: chosen from the passes, and true of models emitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import UsageError
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._sensitivity.ranking.groups import bound_together
from qgraph._sensitivity.report import Sensitivity

HEAVY = """
heavy (float[batch, 16] x) => (float[batch, 16] y)
{
  [/q/MatMul] q = MatMul(x, wq)
  [/k/MatMul] k = MatMul(x, wk)
  p = Mul(q, k)
  h = Tanh(p)
  c = Mul(h, h)
  e = Exp(p)
  m = Mul(e, c)
  [/down/MatMul] d = MatMul(m, wd)
  t = Tanh(d)
  [/out/MatMul] y = MatMul(t, wo)
}
"""
"""What `down` reads has a long tail, where FP8 does less; what the others read has none."""


@pytest.fixture
def heavy(build: Any) -> Path:
    path: Path = build(HEAVY, dict.fromkeys(("wq", "wk", "wd", "wo"), (16, 16)))
    model = onnx.load(path)
    for item in model.graph.initializer:
        values = 0.3 * onnx.numpy_helper.to_array(item)
        item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
    onnx.save(model, path)
    return path


@pytest.fixture
def samples(heavy: Path) -> Path:
    generator = np.random.default_rng(0)
    path = heavy.with_name("data.npz")
    np.savez(path, x=generator.standard_normal((64, 16)).astype(np.float32))
    return path


def scored(path: Path, data: Path, **options: Any) -> tuple[Sensitivity, qgraph.Ranges]:
    """Score with ranges of all 64 samples, so that what is emitted has the same."""
    ranges = qgraph.calibrate(path, data=data, samples=64, fast=True)
    ranges = ranges.model_copy(update={"unseen": ()})
    given: dict[str, Any] = {"engine": "gradient", "schemes": "int8,fp8", "probes": 16} | options
    report, _ = qgraph.sensitivity(path, data=data, samples=16, ranges=ranges, **given)
    return report, ranges


def outputs(model: onnx.ModelProto, data: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, disabled_optimizers=["ReluQuantRewrite"]
    )
    return session.run(None, {"x": np.load(data)["x"][:16]})[0]


def test_a_node_is_in_the_format_that_does_less_and_siblings_are_in_one(
    heavy: Path, samples: Path
) -> None:
    report, _ = scored(heavy, samples)
    assert report.mixed is not None and report.mixed.schemes == ("int8", "fp8")
    damage = {
        node.name: (node.solo.mse, node.schemes["fp8"].mse)
        for node in report.nodes
        if node.solo and node.schemes
    }
    for unit in (("/q/MatMul", "/k/MatMul"), ("/down/MatMul",), ("/out/MatMul",)):
        own, other = (sum(damage[name][at] for name in unit) for at in (0, 1))
        expected = "fp8" if other < own else "int8"
        assert {report.mixed.formats[name] for name in unit} == {expected}
    assert report.mixed.formats["/down/MatMul"] == "fp8"
    assert report.mixed.formats["/out/MatMul"] == "int8"


@pytest.mark.parametrize("engine_options", [{}, {"metric": "sqnr_db"}])
def test_what_a_mixed_profile_is_predicted_to_do_the_emitted_model_does(
    heavy: Path, samples: Path, engine_options: dict[str, Any]
) -> None:
    report, ranges = scored(heavy, samples, **engine_options)
    profiles = qgraph.profile(report, mix="int8,fp8")
    exact = outputs(onnx.load(heavy), samples)
    for made in qgraph.quantize(heavy, profiles, ranges):
        mse = np.mean((outputs(made.model, samples) - exact) ** 2)
        predicted = made.profile.predicted
        assert predicted is not None and predicted.interactions
        # the sets of A to D were measured; cut by MACs, some profiles are others
        rel = 1e-3 if made.profile.name == "D" else 0.4
        assert predicted.mse == pytest.approx(mse, rel=rel)
    pure, mixed = qgraph.profile(report), profiles.profiles[-1].predicted
    assert mixed is not None
    alone: dict[str, Any] = {"data": samples, "samples": 64, "scheme": Scheme(name=SchemeName.FP8)}
    for given in ({"ranges": ranges}, alone):
        (made,) = qgraph.quantize(heavy, pure, names="D", **given)
        assert mixed.mse < np.mean((outputs(made.model, samples) - exact) ** 2)


def test_measured_on_switches_a_mixed_profile_does_what_the_emitted_model_does(
    heavy: Path, samples: Path
) -> None:
    report, ranges = scored(heavy, samples)
    given: dict[str, Any] = {
        "model": heavy,
        "ranges": ranges,
        "data": samples,
        "samples": 16,
        "mix": "int8,fp8",
    }
    profiles = qgraph.profile(report, budget="mse<=0.001", **given)
    *_, found = profiles.profiles
    assert found.name == "budget" and found.measured and found.measured["mse"] <= 0.001
    exact = outputs(onnx.load(heavy), samples)
    for made in qgraph.quantize(heavy, profiles, ranges):
        mse = np.mean((outputs(made.model, samples) - exact) ** 2)
        assert made.profile.measured is not None
        assert made.profile.measured["mse"] == pytest.approx(mse, rel=1e-4)
        assert (made.profile.formats or {}).keys() == set(made.profile.quantize)


NARROW = """
narrow (float[batch, 16, 6, 6] x) => (float[batch, 16, 6, 6] y)
{
  [/wide/Conv] a = Conv<pads = [1, 1, 1, 1]>(x, w1)
  r = Relu(a)
  [/narrow/Conv] y = Conv(r, w2)
}
"""


def test_what_fp8_has_no_kernel_for_stays_int8(build: Any, score: Any) -> None:
    path = build(NARROW, {"w1": (24, 16, 3, 3), "w2": (16, 24, 1, 1)})
    x = np.random.default_rng(0).standard_normal((2, 16, 6, 6)).astype(np.float32)
    found = score(path, feeds=[{"x": x}], engine="gradient", schemes=("int8", "fp8"))
    # 16 and 24 channels leave unlike remainders by 16
    assert all(node.schemes is None for node in found.nodes) and found.mixed is None


def test_readers_of_one_tensor_and_members_of_a_group_are_bound(siblings: Path, cnn: Path) -> None:
    nodes = select(prepare(siblings).model).candidates
    names = [node.name for node in nodes]
    assert bound_together(nodes, ()) == [tuple(names[:3]), tuple(names[3:])]
    assert bound_together(nodes, [(names[0], names[3])]) == [tuple(names)]
    nodes = select(prepare(cnn).model).candidates
    assert [len(unit) for unit in bound_together(nodes, ())] == [1, 1, 1]


@pytest.mark.parametrize(
    ("schemes", "mix", "said"),
    [
        ("int8,int8:mse", "int8,fp8", "no formats to choose from"),
        ("int8,fp8:mse", "int8,fp8", "no formats to choose from"),
        ("int8,fp8", "fp8,int8:mse", "expected int8,fp8"),
        ("int8,fp8", "fp8", "expected two formats"),
        ("int8,fp8", "int8,fp4", "fp4"),
    ],
)
def test_a_choice_that_the_report_does_not_hold_is_refused(
    siblings: Path, schemes: str, mix: str, said: str
) -> None:
    report, _ = qgraph.sensitivity(siblings, engine="gradient", schemes=schemes)
    with pytest.raises(UsageError, match=said):
        qgraph.profile(report, mix=mix)

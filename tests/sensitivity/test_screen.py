"""When no sample is scored in time, nodes are ranked by their own output's error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import built, drawn

import qgraph
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import UsageError
from qgraph._quantize.arithmetic import fake_quantize, largest_value_scale
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import select
from qgraph._sensitivity.engines.screening import screen

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[batch, 8] x) => (float[batch, 4] y) {
  h = MatMul(x, a)
  r = Relu(h)
  y = MatMul(r, b)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    proto = built(MODEL, **drawn({"a": (8, 8), "b": (8, 4)}, rng))
    for node, name in zip(proto.graph.node, ("first", "act", "second"), strict=True):
        node.name = name
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((3, 8)).astype(np.float32))
    return tmp_path / "m.onnx"


def test_the_screen_is_each_nodes_own_noise_to_signal_ratio(model: Path) -> None:
    prepared = prepare(model)
    x = np.load(model.with_name("d.npz"))["x"]
    nodes = select(prepared.model).candidates
    run = RangesRun(qgraph="0", provider="cpu", samples=1, data="", synthetic=False)
    ranges = calibrate(prepared, nodes, [{"x": x}], Scheme(), run).by_name()
    quantization = fake_quantization(quantization_parameters(prepared.model, nodes, ranges))
    found = screen(prepared, nodes, quantization, [{"x": x}])
    weight = onnx.numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    scale = np.float32(np.abs(x).max() / 127)
    rounded = fake_quantize(x, np.asarray(scale))
    y = x @ weight
    off = y - rounded @ fake_quantize(weight, largest_value_scale(weight, 1), 1)
    # numpy's and onnxruntime's matrix products round differently
    assert found["first"] == pytest.approx(float((off**2).sum() / (y**2).sum()), rel=1e-3)
    assert found.keys() == {"first", "second"}


def test_a_budget_too_small_for_one_sample_still_ranks_every_node(model: Path) -> None:
    report, _ = qgraph.sensitivity(
        model, data=[model.with_name("d.npz")], time_budget=1e-9, fast=True
    )
    assert report.run.engine == "screen"
    assert not report.run.complete
    assert report.baseline is None
    assert sorted(node.rank for node in report.nodes) == [1, 2]
    assert all(node.screen and node.screen.noise_to_signal > 0 for node in report.nodes)
    assert all(node.solo is None for node in report.nodes)


def test_profiles_can_be_cut_from_a_screen(model: Path) -> None:
    report, _ = qgraph.sensitivity(
        model, data=[model.with_name("d.npz")], time_budget=1e-9, fast=True
    )
    profiles = qgraph.profile(report, cuts={"half": 0.5})
    (kept,) = {node.name for node in report.nodes} - set(profiles.profiles[0].quantize)
    assert next(node.rank for node in report.nodes if node.name == kept) == 1
    assert profiles.profiles[0].predicted is None


def test_a_journal_of_another_run_is_refused(model: Path, tmp_path: Path) -> None:
    data = [model.with_name("d.npz")]
    journal = tmp_path / "journal"
    qgraph.sensitivity(model, data=data, journal=journal, time_budget=1e-9, fast=True)
    # nothing was finished, so nothing is in the way
    qgraph.sensitivity(model, data=data, journal=journal, direction="leave-one-out", fast=True)
    with pytest.raises(UsageError, match=r"direction \(leave-one-out then, solo now\)"):
        qgraph.sensitivity(model, data=data, journal=journal, direction="solo", fast=True)


def test_onnxruntime_still_runs_the_float_model_after_all_this(model: Path) -> None:
    before = model.read_bytes()
    qgraph.sensitivity(model, data=[model.with_name("d.npz")], fast=True)
    assert model.read_bytes() == before
    assert ort.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()

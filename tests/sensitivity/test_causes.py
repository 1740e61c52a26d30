"""Each node comes with the reason for its score, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.run.memory import Memory
from qgraph._graph.tensors import Array
from qgraph._quantize.arithmetic import fake_quantize, largest_value_scale
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import RangesRun, SmoothedTensor
from qgraph._quantize.scheme import Calibration, Scheme, WeightScale
from qgraph._quantize.selection import select
from qgraph._sensitivity.beside_scores import Cause
from qgraph._sensitivity.explain.causes import causes

RUN = RangesRun(qgraph="0", provider="cpu", samples=1, data="", synthetic=False)
MEMORY = [Memory(1 << 40), Memory(0)]
LINEAR = "(float[batch,64] x) => (float[batch,32] y) { [fc] y = MatMul(x, w) }"
RNG = np.random.default_rng(0)


def found(
    folder: Path,
    text: str,
    x: Array,
    memory: Memory = MEMORY[0],
    smoothing: Sequence[SmoothedTensor] = (),
    scheme: Scheme | None = None,
    **weights: Array,
) -> dict[str, Cause]:
    """Return the causes of a small net on one sample; `smoothing`: what is said to be done."""
    onnx.save(built(text, **weights), folder / "m.onnx")
    prepared = prepare(folder / "m.onnx")
    nodes = select(prepared.model, [], [".*"]).candidates
    ranges = calibrate(prepared, nodes, [{"x": x}], Scheme(), RUN).by_name()
    quantization = fake_quantization(quantization_parameters(prepared.model, nodes, ranges))
    how = scheme or Scheme()
    return causes(prepared, nodes, quantization, {"x": x}, memory, smoothing=smoothing, scheme=how)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def weight() -> Array:
    return normal(64, 32)


TURNED = "(float[64,batch] x) => (float[batch,32] y) { [fc] y = Gemm<transA=1>(x, w) }"
FLOAT = "keep it float"


@pytest.mark.parametrize(
    ("text", "channels", "done", "remedy"),
    [
        (LINEAR, 64, None, f"--smooth auto and --rotate 128, or {FLOAT}"),
        (LINEAR, 64, (0.5, None), f"--rotate 128, or {FLOAT}"),
        (LINEAR, 64, (0.0, 64), f"--smooth auto, or {FLOAT}"),
        (LINEAR, 64, (0.5, 64), FLOAT),
        (LINEAR.replace("64", "60"), 60, None, f"--smooth auto, or {FLOAT}"),
        (TURNED, 64, None, FLOAT),
    ],
    ids=["plain", "smoothed", "rotated", "both", "no blocks", "neither can be"],
)
def test_what_may_help_against_loud_channels_was_not_done_yet_and_can_be(
    tmp_path: Path, text: str, channels: int, done: tuple[float, int | None] | None, remedy: str
) -> None:
    x, smoothing = normal(50, channels), []
    x[:, 3] *= 40
    if done is not None:
        smoothing = [
            SmoothedTensor(
                tensor="x", alpha=done[0], quantized=("fc",), factors=(1.0,), rotation=done[1]
            )
        ]
    given = x.T.copy() if text is TURNED else x
    made = found(tmp_path, text, given, smoothing=smoothing, w=normal(channels, 32))["fc"]
    peaks = np.abs(x).max(axis=0)
    assert made.outlier_ratio == pytest.approx(peaks.max() / np.median(peaks), rel=1e-5)
    assert made.remedy == remedy


@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [
        (Scheme(smooth="auto"), f"--rotate 128, or {FLOAT}"),
        (Scheme(calibrate=Calibration.AUTO, smooth="auto"), FLOAT),
    ],
    ids=["smoothing searched", "all searched"],
)
def test_what_a_search_found_no_use_in_is_no_remedy_for_loud_channels(
    tmp_path: Path, scheme: Scheme, remedy: str
) -> None:
    x = normal(50, 64)
    x[:, 3] *= 40
    assert found(tmp_path, LINEAR, x, scheme=scheme, w=normal(64, 32))["fc"].remedy == remedy


@pytest.mark.parametrize(
    ("scheme", "activations", "weights"),
    [
        (Scheme(), f"--calibrate percentile or mse, or {FLOAT}", f"--weights mse, or {FLOAT}"),
        (Scheme(calibrate=Calibration.PERCENTILE, weights=WeightScale.MSE), FLOAT, FLOAT),
        (
            Scheme(calibrate=Calibration.AUTO, smooth="auto"),
            f"--calibrate output, or {FLOAT}",
            f"--weights mse, or {FLOAT}",
        ),
    ],
    ids=["plain", "both", "searched"],
)
def test_what_the_scheme_has_is_no_remedy(
    tmp_path: Path, weight: Array, scheme: Scheme, activations: str, weights: str
) -> None:
    x, alone = normal(50, 64), weight.copy()
    alone[0] *= 100
    assert found(tmp_path, LINEAR, x, scheme=scheme, w=weight)["fc"].remedy == activations
    assert found(tmp_path, LINEAR, x / 100, scheme=scheme, w=alone)["fc"].remedy == weights


def test_channels_are_those_of_each_reader(tmp_path: Path) -> None:
    text = """(float[2,8,6,32] x) => (float[2,16,4,30] y, float[2,8,6,16] z)
{ [conv] y = Conv(x, w) [fc] z = MatMul(x, v) }"""
    x = normal(2, 8, 6, 32)
    x[:, 2] *= 30
    x[..., 5] *= 90
    made = found(tmp_path, text, x, w=normal(16, 8, 3, 3), v=normal(32, 16))
    for name, others in (("conv", (0, 2, 3)), ("fc", (0, 1, 2))):
        peaks = np.abs(x).max(axis=others)
        ratio = pytest.approx(peaks.max() / np.median(peaks), rel=1e-5)
        assert made[name].outlier_ratio == ratio


def test_a_loud_channel_is_named_with_smoothing_as_the_remedy(
    tmp_path: Path, weight: Array
) -> None:
    x = normal(50, 64)
    x[:, 3] *= 40
    cause = found(tmp_path, LINEAR, x, w=weight)["fc"]
    peaks = np.abs(x).max(axis=0)
    assert cause.outlier_ratio == pytest.approx(peaks.max() / np.median(peaks), rel=1e-5)
    assert cause.activation_share is not None and cause.activation_share > 0.9
    assert f"{cause.outlier_ratio:.0f} times" in cause.why
    assert "--smooth" in cause.remedy


@pytest.mark.parametrize("memory", MEMORY, ids=["whole", "in parts"])
def test_the_share_of_the_activation_is_what_numpy_says(
    tmp_path: Path, weight: Array, memory: Memory
) -> None:
    x = normal(20, 64)
    cause = found(tmp_path, LINEAR, x, memory, w=weight)["fc"]
    of_x: Array = (
        x @ weight - fake_quantize(x, np.asarray(np.abs(x).max() / 127, np.float32)) @ weight
    )
    of_w: Array = x @ weight - x @ fake_quantize(weight, largest_value_scale(weight, 1), 1)
    expected = (of_x**2).sum() / ((of_x**2).sum() + (of_w**2).sum())
    assert cause.activation_share == pytest.approx(float(expected), rel=1e-2)


def test_a_weight_with_a_large_entry_is_the_cause_itself(tmp_path: Path, weight: Array) -> None:
    weight[5] *= 50
    cause = found(tmp_path, LINEAR, normal(50, 64).clip(-1, 1), w=weight)["fc"]
    assert cause.activation_share is not None and cause.activation_share < 0.5
    assert "weights" in cause.why and "--weights mse" in cause.remedy


def test_channels_that_are_always_zero_are_counted(tmp_path: Path, weight: Array) -> None:
    x = normal(20, 64)
    x[:, :7] = 0
    assert found(tmp_path, LINEAR, x, w=weight)["fc"].dead_channels == 7


def test_a_narrow_product_is_better_kept_float(tmp_path: Path) -> None:
    text = "(float[batch,64] x) => (float[batch,4] y) { [fc] y = MatMul(x, w) }"
    cause = found(tmp_path, text, normal(20, 64), w=normal(64, 4))["fc"]
    assert cause.narrow and cause.remedy == "keep it float"
    assert "64 × 4" in cause.why


def test_the_peaks_of_a_convolution_are_those_of_its_channels(tmp_path: Path) -> None:
    text = "(float[batch,8,6,6] x) => (float[batch,16,4,4] y) { [conv] y = Conv(x, w) }"
    x = normal(2, 8, 6, 6)
    x[:, 2] *= 30
    cause = found(tmp_path, text, x, w=normal(16, 8, 3, 3))["conv"]
    peaks = np.abs(x).max(axis=(0, 2, 3))
    assert cause.outlier_ratio == pytest.approx(peaks.max() / np.median(peaks), rel=1e-5)


def test_what_writes_into_the_residual_stream_and_reads_a_softmax_is_said(tmp_path: Path) -> None:
    text = """(float[batch,64] x) => (float[batch,64] y) {
        [up] a = MatMul(x, w)
        p = Softmax(a)
        [read] b = MatMul(p, v)
        y = Add(b, a)
    }"""
    both = found(tmp_path, text, normal(20, 64), w=normal(64, 64), v=normal(64, 64))
    assert both["read"].after_softmax and "softmax" in both["read"].why
    assert both["read"].residual and both["up"].residual
    assert not both["up"].after_softmax


def test_a_node_whose_output_does_not_change_says_so(tmp_path: Path) -> None:
    cause = found(tmp_path, LINEAR, np.zeros((4, 64), np.float32), w=normal(64, 32))["fc"]
    assert cause.activation_share is None and "changes nothing" in cause.why


def test_errors_beyond_float32_have_no_share(tmp_path: Path) -> None:
    # squares of outputs near 1e25 are infinite, as in a zoo model with made-up weights
    seen = found(tmp_path, LINEAR, 1e20 * normal(4, 64), w=1e5 * normal(64, 32))
    assert seen["fc"].activation_share is None and "beyond float32" in seen["fc"].why

"""Without options, ranges and smoothing are searched for; what is given is obeyed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qgraph
from qgraph import Scheme

Command = Callable[..., Any]

NET = """<ir_version: 10, opset_import: ["" : 21]> net (float[N,32] x) => (float[N,24] y)
{ n = Mul(x, gamma) [first] h = MatMul(n, w) t = Tanh(h) [last] y = MatMul(t, v) }"""
SEARCHED = Scheme(calibrate="auto", smooth="auto")  # type: ignore[arg-type]


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """A model in which a norm's weight makes channel 5 a hundred times as large as others."""
    draw = np.random.default_rng(0)
    w = draw.standard_normal((32, 16)).astype(np.float32) / 8
    gamma = np.ones(32, np.float32)
    gamma[5], w[5] = 100, w[5] / 100
    v = draw.standard_normal((16, 24)).astype(np.float32)
    model = onnx.parser.parse_model(NET)
    for name, array in (("w", w), ("gamma", gamma), ("v", v)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def samples(folder: Path, seed: int = 1, count: int = 8) -> Path:
    draw = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        np.savez(folder / f"{number}.npz", x=draw.standard_normal((64, 32)).astype(np.float32))
    return folder


@pytest.fixture
def given(tmp_path: Path) -> list[Path | str]:
    return ["--data", samples(tmp_path / "data"), "--small"]


def squared_error(model: Path, other: onnx.ModelProto, held: Path) -> float:
    """Return what onnxruntime measures, rounding as TensorRT does."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    sessions = [
        ort.InferenceSession(each, options) for each in (str(model), other.SerializeToString())
    ]
    errors = []
    for path in sorted(held.iterdir()):
        a, b = (each.run(None, dict(np.load(path)))[0].astype(float) for each in sessions)
        errors.append(((a - b) ** 2).mean())
    return float(np.mean(errors))


def scheme_in(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_text())["scheme"]
    return found


def test_d_is_better_by_default_than_fast_as_onnxruntime_measures(
    loud: Path, tmp_path: Path
) -> None:
    data, held = samples(tmp_path / "data"), samples(tmp_path / "held", seed=2)
    errors = {}
    for fast in (False, True):
        report, ranges = qgraph.sensitivity(loud, data=data, small=True, fast=fast)
        profiles = qgraph.profile(report, cuts={"D": 1.0})
        (made,) = qgraph.quantize(loud, profiles, ranges)
        errors[fast] = squared_error(loud, made.model, held)
        assert report.scheme == (Scheme() if fast else SEARCHED)
    assert errors[False] < errors[True] / 20


def test_the_command_says_what_was_found(
    qgraph: Command, loud: Path, given: list[Any], tmp_path: Path
) -> None:
    report = tmp_path / "s.json"
    said = qgraph("sensitivity", loud, *given, "-o", report).out
    line = next(line for line in said.splitlines() if line.startswith("Ranges and smoothing: "))
    assert "smoothing 0." in line and " dB instead of " in said
    assert line.split(";")[0] in (tmp_path / "s.md").read_text()
    profiles, ranges = tmp_path / "p.json", tmp_path / "ranges.json"
    assert qgraph("profile", report, "-o", profiles).code == 0
    asked = ["--profiles", profiles, "--ranges", ranges, "-o", tmp_path / "out"]
    assert line.split(";")[0] in qgraph("quantize", loud, *asked).out


def test_ranges_of_another_scheme_are_refused_by_their_files_name(
    qgraph: Command, loud: Path, given: list[Any], tmp_path: Path
) -> None:
    for name in ("plain", "smoothed"):
        scheme = ["--fast"] if name == "plain" else ["--smooth", "0.5"]
        report = tmp_path / name / "s.json"
        assert qgraph("sensitivity", loud, *given, *scheme, "-o", report).code == 0
    profiles, ranges = tmp_path / "smoothed/p.json", tmp_path / "plain/ranges.json"
    assert qgraph("profile", tmp_path / "smoothed/s.json", "-o", profiles).code == 0
    asked = ["--profiles", profiles, "--ranges", ranges, "-o", tmp_path / "out"]
    found = qgraph("quantize", loud, *asked)
    assert found.code == 2 and "plain/ranges.json: made under the scheme [int8" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--calibrate", "minmax"], ["--smooth", "0.5"], ["--rotate", "2"]]
)
def test_as_soon_as_a_part_is_given_nothing_else_is_searched(
    qgraph: Command, loud: Path, given: list[Any], tmp_path: Path, options: list[str]
) -> None:
    report = tmp_path / "s.json"
    done = qgraph("sensitivity", loud, *given, *options, "-o", report)
    assert done.code == 0 and "searched" not in json.loads(report.read_text())
    assert "auto" not in scheme_in(report).values()


def test_names_and_weights_leave_the_search_on(
    qgraph: Command, loud: Path, given: list[Any], tmp_path: Path
) -> None:
    report = tmp_path / "s.json"
    options = ["--scheme", "fp8", "--weights", "mse"]
    assert qgraph("sensitivity", loud, *given, *options, "-o", report).code == 0
    found = scheme_in(report)
    assert (found["name"], found["weights"]) == ("fp8", "mse")
    assert (found["calibrate"], found["smooth"]) == ("auto", "auto")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--small"], "the samples are made up"),
        (["--small", "--samples", "3", "--data", "data"], "4 samples are needed"),
    ],
)
def test_where_nothing_is_searched_a_line_says_why(
    qgraph: Command, loud: Path, tmp_path: Path, options: list[str], why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    samples(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    done = qgraph("sensitivity", loud, *options, "-o", tmp_path / "s.json")
    assert done.code == 0
    said = " ".join(done.out.split())
    assert f"Ranges and smoothing: plain, as nothing was searched for: {why}" in said


def test_where_memory_is_short_ranges_are_plain(loud: Path, tmp_path: Path) -> None:
    data = samples(tmp_path / "data")
    ranges = qgraph.calibrate(loud, data=data, small=True, runtime=qgraph.Runtime(memory_budget=1))
    plain = qgraph.calibrate(loud, data=data, small=True, fast=True)
    assert "it holds the weights 3 times" in str(ranges.found())
    assert (ranges.tensors, ranges.smoothing) == (plain.tensors, ())


def test_several_schemes_are_plain(loud: Path, tmp_path: Path) -> None:
    schemes = ("int8", "fp8")
    data = samples(tmp_path / "data")
    report, _ = qgraph.sensitivity(loud, data=data, small=True, engine="gradient", schemes=schemes)
    assert report.scheme == Scheme()
    assert "what is best for one of several --schemes" in str(report.found())


def test_ranges_found_are_kept_for_who_goes_on(loud: Path, tmp_path: Path) -> None:
    """A run that ends in scoring, goes on with the ranges that it had found."""
    data, journal = samples(tmp_path / "data"), tmp_path / "s.journal"
    seen: list[str] = []
    asked: Any = {"data": data, "small": True, "journal": journal}
    first, ranges = qgraph.sensitivity(loud, **asked)
    runtime = qgraph.Runtime(progress=lambda what, done, total: seen.append(what))
    again, same = qgraph.sensitivity(loud, **asked, runtime=runtime)
    assert "choosing ranges" not in seen
    assert (again.nodes, same) == (first.nodes, ranges)


def test_a_journal_of_the_plain_scheme_is_answered_with_what_differs(
    loud: Path, tmp_path: Path
) -> None:
    data, journal = samples(tmp_path / "data"), tmp_path / "s.journal"
    qgraph.sensitivity(loud, data=data, small=True, journal=journal, fast=True)
    with pytest.raises(qgraph.UsageError, match=r"calibrate \(minmax then, auto now\)"):
        qgraph.sensitivity(loud, data=data, small=True, journal=journal)


HALF = """(float16[N,64] x) => (float16[N,1] y)
{ h = LayerNormalization(x, g) r = Relu(h) [up] u = MatMul(h, w) s = Add(u, r)
[down] d = MatMul(s, v) t = Mul(d, u) [last] o = MatMul(t, z) y = ReduceSum(o, axes) }"""
Halves = Callable[..., tuple[Path, Path]]


@pytest.fixture
def halves(build: Callable[..., onnx.ModelProto], tmp_path: Path) -> Halves:
    """Return a function that writes a model in half precision with loud channels, and samples;
    `cancels`: whether its output is a small difference of large numbers, which rounding changes.
    """

    def made(seed: int, opset: int, *, cancels: bool) -> tuple[Path, Path]:
        draw = np.random.default_rng(seed)
        w, v, z = (draw.standard_normal((64, n)) / 8 for n in (64, 64, 32 if cancels else 1))
        gain = np.where(np.isin(np.arange(64), (3, 17)), 60, 1)
        if cancels:
            z = np.hstack([z, -z]) + draw.standard_normal((64, 64)) / 512
        half = {n: a.astype(np.float16) for n, a in (("g", gain), ("w", w), ("v", v), ("z", z))}
        onnx.save(build(HALF, opset=opset, **half, axes=np.array([1])), tmp_path / "half.onnx")
        x = draw.standard_normal((8, 64)).astype(np.float16)
        np.savez(tmp_path / "half.npz", x=x)
        return tmp_path / "half.onnx", tmp_path / "half.npz"

    return made


def test_roundings_of_smoothing_are_not_taken_for_those_of_a_converted_opset(
    halves: Halves,
) -> None:
    model, data = halves(5, 17, cancels=False)
    ranges = qgraph.calibrate(model, data=data, scheme=Scheme(smooth="0.7", rotate="32"))
    assert ranges.smoothing


def test_smoothing_that_changes_the_float_model_is_refused_where_it_is_asked_for_alone(
    halves: Halves,
) -> None:
    model, data = halves(3, 21, cancels=True)
    with pytest.raises(qgraph.InputError, match="changed what the float model computes"):
        qgraph.calibrate(model, data=data, scheme=Scheme(smooth="0.7"))
    assert not qgraph.calibrate(model, data=data).smoothing

"""The parts of a scheme, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Command = Callable[..., Any]


def scored(qgraph: Command, mlp: Path, data: Path, *options: str) -> Path:
    output = mlp.parent / "sensitivity.json"
    assert qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", output, *options).code == 0
    return output


def emitted(qgraph: Command, mlp: Path, data: Path, *options: str) -> Path:
    """Return D of the whole chain under a scheme."""
    report = scored(qgraph, mlp, data, *options)
    profiles, folder = report.with_name("profiles.json"), report.parent
    assert qgraph("profile", report, "-o", profiles).code == 0
    ranges = report.with_name("ranges.json")
    made = qgraph("quantize", mlp, "--profiles", profiles, "--ranges", ranges, "-o", folder)
    assert made.code == 0, made.err
    return folder / "D.onnx"


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse", "moving-average"])
def test_a_calibration_goes_through_the_whole_chain(
    qgraph: Command, mlp: Path, data: Path, method: str
) -> None:
    path = emitted(qgraph, mlp, data, "--calibrate", method)
    scheme = {item.key: item.value for item in onnx.load(path).metadata_props}["qgraph.scheme"]
    assert json.loads(scheme)["calibrate"] == method
    ranges = json.loads(path.with_name("ranges.json").read_text())
    assert all(0 < item["clip"] <= max(-item["rmin"], item["rmax"]) for item in ranges["tensors"])


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_fp8_goes_through_the_whole_chain(
    qgraph: Command, mlp: Path, data: Path, method: str
) -> None:
    path = emitted(qgraph, mlp, data, "--scheme", "fp8", "--calibrate", method, "--weights", "mse")
    kinds = {item.data_type for item in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds and onnx.TensorProto.INT8 not in kinds
    assert qgraph("lint", path).code == 0
    result = qgraph(
        "evaluate", mlp, path, "--data", data, "-o", path.with_suffix(".json"), "--json"
    )
    assert result.code == 0, result.err
    quantized = result.json["variants"][1]
    # E4M3 has three bits after the leading one: some 30 dB for each operand of four linears
    assert quantized["quantized_to"] == "fp8" and quantized["metrics"]["sqnr_db"] > 20


@pytest.mark.parametrize(
    "options",
    [
        ("--smooth", "0.5"),
        ("--smooth", "auto"),
        ("--smooth", "0.5", "--rotate", "8"),
        ("--rotate", "8", "--scheme", "fp8"),
        ("--rotate", "8", "--calibrate", "auto", "--smooth", "auto"),
    ],
    ids=" ".join,
)
def test_smoothing_and_rotations_go_through_the_whole_chain_and_leave_float_results(
    qgraph: Command, mlp: Path, data: Path, options: tuple[str, ...]
) -> None:
    path = emitted(qgraph, mlp, data, *options)
    evaluation = path.with_name("evaluation.json")
    result = qgraph("evaluate", mlp, path, "--data", data, "-o", evaluation, "--json")
    assert result.code == 0, result.err
    float_, quantized = result.json["variants"]
    # W8A8 of four linears on normal numbers; E4M3 has three bits after the leading one
    least = 18 if "fp8" in options else 25
    assert float_["metrics"]["mse"] == 0 and quantized["metrics"]["sqnr_db"] > least


def test_profiles_of_a_rotated_model_quantize_the_model_without_rotations(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    rotated = emitted(qgraph, mlp, data, "--rotate", "8")
    profiles, folder = rotated.with_name("profiles.json"), rotated.with_name("plain")
    given = ("--profiles", profiles, "--data", data, "--rotate", "none", "-o", folder)
    made = qgraph("quantize", mlp, *given)
    assert made.code == 0, made.err
    names = [
        {node.name for node in onnx.load(path).graph.node} for path in (rotated, folder / "D.onnx")
    ]
    assert [any(name.endswith("/rotation") for name in found) for found in names] == [True, False]


def test_clipped_weights_pass_the_proof(qgraph: Command, mlp: Path, data: Path) -> None:
    assert emitted(qgraph, mlp, data, "--weights", "mse").exists()


@pytest.mark.parametrize("options", [("--smooth", "0.5"), ("--scheme", "fp8")])
def test_scores_are_those_of_the_emitted_model(
    qgraph: Command, mlp: Path, data: Path, options: tuple[str, ...]
) -> None:
    count = 3  # of more, each is scored with ranges of others, and the model has those of all
    path = emitted(qgraph, mlp, data, "--samples", str(count), *options)
    baseline = json.loads(path.with_name("sensitivity.json").read_text())["baseline"]
    samples = np.load(data)["x"][:count]
    from qgraph._graph.run.session import open_session

    outputs = [
        np.concatenate([open_session(model).run({"x": row[None]})["y"] for row in samples])
        for model in (mlp, path)
    ]
    measured = float(np.mean((outputs[0] - outputs[1]) ** 2))
    assert measured == pytest.approx(baseline["all_quantized"]["mse"], rel=1e-4)


def test_files_of_another_scheme_are_refused(qgraph: Command, mlp: Path, data: Path) -> None:
    report = scored(qgraph, mlp, data, "--smooth", "0.5")
    ranges = report.with_name("ranges.json")
    plain = qgraph("sensitivity", mlp, "--data", data, "--fast", "--ranges", ranges, "-o", report)
    assert plain.code == 2 and "smooth=0.5" in plain.err and "smooth=none" in plain.err


def test_profiles_can_be_quantized_under_another_scheme_when_told_to(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    profiles = scored(qgraph, mlp, data).with_name("profiles.json")
    qgraph("profile", mlp.parent / "sensitivity.json", "-o", profiles)
    folder = mlp.parent / "smoothed"
    arguments = ("--profiles", profiles, "--data", data, "-o", folder)
    made = qgraph("quantize", mlp, *arguments, "--smooth", "0.6", "--scheme", "fp8")
    assert made.code == 0, made.err
    scheme = json.loads((folder / "ranges.json").read_text())["scheme"]
    assert scheme["smooth"] == "0.6" and scheme["name"] == "fp8"


@pytest.mark.parametrize(
    "options",
    [
        ("--smooth", "2"),
        ("--smooth", "much"),
        ("--rotate", "48"),
        ("--scheme", "inc-cpu", "--rotate", "8"),
        ("--percentile", "99"),
        ("--calibrate", "percentile", "--percentile", "20"),
        ("--scheme", "inc-cpu", "--smooth", "0.5"),
        ("--engine", "inc", "--scheme", "int8", "--smooth", "0.5"),
        ("--engine", "inc", "--scheme", "fp8"),
        ("--scheme", "fp8", "--calibrate", "entropy"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    qgraph: Command, mlp: Path, data: Path, options: tuple[str, ...]
) -> None:
    result = qgraph("sensitivity", "--fast", mlp, "--data", data, *options)
    assert result.code == 2 and "Traceback" not in result.err


def test_activations_that_never_change_are_named(
    qgraph: Command, mlp: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "flat.npz", x=np.zeros((2, 16), np.float32))
    result = qgraph(
        "sensitivity", "--fast", mlp, "--data", tmp_path / "flat.npz", "-o", tmp_path / "s.json"
    )
    assert "never changed while calibrating: x" in result.err

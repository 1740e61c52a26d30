"""`quantize --dtype fp16`: models converted to fp16, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qgraph._graph.io.models import write_model

Command = Callable[..., Any]
Build = Callable[..., onnx.ModelProto]


def profiles_of(qgraph: Command, model: Path, data: Path, scheme: str) -> list[Any]:
    """Return the options that quantize `model` by all profiles of a scheme."""
    report, profiles = model.parent / "sensitivity.json", model.parent / "profiles.json"
    options = ("--direction", "solo", "--scheme", scheme)
    assert qgraph("sensitivity", "--fast", model, "--data", data, "-o", report, *options).code == 0
    assert qgraph("profile", report, "-o", profiles).code == 0
    return ["--profiles", profiles, "--ranges", model.parent / "ranges.json"]


def metadata(path: Path) -> dict[str, str]:
    return {item.key: item.value for item in onnx.load(path).metadata_props}


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_fp16_models_stand_beside_fp32_ones_in_one_evaluation(
    qgraph: Command, mlp: Path, data: Path, make_data: Callable[..., Path], scheme: str
) -> None:
    options, folder = profiles_of(qgraph, mlp, data, scheme), mlp.parent
    many = make_data(folder / "many.npz", samples=400)
    assert qgraph("quantize", mlp, *options, "-o", folder).code == 0
    made = qgraph("quantize", mlp, *options, "--data", data, "--dtype", "fp16", "-o", folder)
    assert made.code == 0, made.err
    models = [folder / name for name in ("fp16.onnx", "D.onnx", "D-fp16.onnx")]
    for path in models:
        assert qgraph("lint", path, "--json").json["counts"]["warning"] <= (path == models[0])
    half = onnx.load(models[2])
    onnx.checker.check_model(half, full_check=True)
    kinds = {tensor.data_type for tensor in half.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds and onnx.TensorProto.FLOAT16 in kinds
    output = folder / "evaluation.json"
    shown = qgraph("evaluate", mlp, *models, "--data", many, "-o", output)
    assert shown.code == 0 and "computed in fp32" in shown.out
    variants = {item["name"]: item for item in json.loads(output.read_text())["variants"]}
    assert list(variants) == ["float", "fp16", "D", "D-fp16"]
    assert [item["dtype"] for item in variants.values()] == ["fp32", "fp16", "fp32", "fp16"]
    assert [item.get("computed_in") for item in variants.values()] == [None, "fp32", None, "fp32"]
    # fp16's own rounding is some 60 dB below the signal, far below that of INT8 and FP8
    assert variants["fp16"]["metrics"]["sqnr_db"] > 50
    quantized, converted = (variants[name]["metrics"]["sqnr_db"] for name in ("D", "D-fp16"))
    # of 6400 numbers, of which a few cross a step
    assert converted == pytest.approx(quantized, abs=0.5)


OVERFLOWS = (
    "(float[N,32] x) => (float[N,32] y)"
    "{ [up] h = MatMul(x, u) [down] d = MatMul(h, v) [stream] r = Add(d, x)"
    " [scale] n = Mul(r, small) [head] y = MatMul(n, w) }"
)


def test_a_quantized_node_that_overflows_computes_in_fp32_and_says_why(
    qgraph: Command, build: Build, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((32, 32)).astype(np.float32) for n in "uvw"}
    weights["v"] *= 3000
    small = np.array(1e-4, np.float32)
    model, data = tmp_path / "m.onnx", tmp_path / "data.npz"
    write_model(build(OVERFLOWS, small=small, **weights), model)
    np.savez(data, x=rng.standard_normal((8, 32)).astype(np.float32))
    options = profiles_of(qgraph, model, data, "int8")
    result = qgraph(
        "quantize", model, *options, "--data", data, "--dtype", "fp16", "-o", tmp_path, "--json"
    )
    assert result.code == 0, result.err
    kept = {item["name"]: item["reason"] for item in result.json["models"][0]["fp32_nodes"]}
    assert list(kept) == ["down", "stream", "scale"] and "fp16 ends at 65504" in kept["down"]
    path = tmp_path / "D-fp16.onnx"
    written = json.loads(metadata(path)["qgraph.fp32_nodes"])
    assert sorted(name for names in written.values() for name in names) == sorted(kept)
    linted = qgraph("lint", path, "--json").json
    assert linted["counts"]["error"] == linted["counts"]["warning"] == 0
    said = qgraph("quantize", model, "--dtype", "fp16", "--data", data, "-o", tmp_path / "alone")
    assert "fp16 ends at 65504" in " ".join(said.out.split()) and "dB" in said.out
    assert [item.name for item in (tmp_path / "alone").iterdir()] == ["fp16.onnx"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--profiles is missing"),
        (("--dtype", "fp16", "--smooth", "0.5"), "nothing is quantized"),
        (("--dtype", "fp16", "--backend", "inc"), "nothing is quantized"),
        (("--dtype", "bf16"), "bf16"),
    ],
)
def test_what_does_not_fit_is_refused(
    qgraph: Command, mlp: Path, data: Path, options: tuple[str, ...], message: str
) -> None:
    result = qgraph("quantize", mlp, "--data", data, *options)
    assert result.code == 2 and message in " ".join(result.err.split())
    assert not list(Path(mlp.parent).glob("*fp16*"))


def test_a_model_in_half_precision_is_not_converted_again(
    qgraph: Command, mlp: Path, data: Path
) -> None:
    assert qgraph("quantize", mlp, "--dtype", "fp16", "--data", data, "-o", mlp.parent).code == 0
    again = qgraph("quantize", mlp.parent / "fp16.onnx", "--dtype", "fp16", "--data", data)
    assert again.code == 3 and "half precision already" in again.err

"""Models that end in a selection by value are scored and measured at what it reads; inner tensors
can be asked for; one variant that cannot be measured takes no figures of the others with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Build = Callable[..., onnx.ModelProto]
W = {"w0": (16, 32), "w1": (32, 16)}
BODY = "a = MatMul(x, w0) b = Tanh(a) c = MatMul(b, w1)"
DETECTOR = (
    "(float[1,48,16] x) => (int64[K,3] picked) <int64[1] axis = {2}, int64[1] most = {9},"
    " float[1] iou = {0.5}, float[1] least = {0.5}, int64[3] cuts = {4, 4, 8}>"
    f" {{ {BODY} boxes, rest, t = Split<axis = 2>(c, cuts) u = Transpose<perm = [0, 2, 1]>(t)"
    " s = Sigmoid(u) [nms] picked = NonMaxSuppression(boxes, s, most, iou, least) }"
)
BEST = (
    "(float[N,16] x) => (float[N,2] best, int64[N,2] which) <int64[1] k = {2}>"
    f" {{ {BODY} p = Softmax(c) [top] best, which = TopK(p, k) }}"
)
LABELS = f"(float[N,16] x) => (int64[N,1] y) {{ {BODY} [label] y = ArgMax<axis = 1>(c) }}"
ENDS = {
    "NonMaxSuppression": (DETECTOR, "NonMaxSuppression 'nms'", ("boxes", "s")),
    "TopK": (BEST, "TopK 'top'", ("p",)),
    "ArgMax": (LABELS, "ArgMax 'label'", ("c",)),
}


def save(build: Build, folder: Path, text: str) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in W.items()}
    onnx.save(build(text, **weights), folder / "m.onnx")
    shape = (6, 48, 16) if "48" in text else (6, 16)
    np.savez(folder / "x.npz", x=rng.standard_normal(shape).astype(np.float32))
    return folder / "m.onnx", folder / "x.npz"


def quantized(qgraph: Any, model: Path, data: Path, *more: str) -> Any:
    folder = model.parent
    result = qgraph("sensitivity", "--fast", model, "--data", data, *more, "-o", folder / "s.json")
    assert result.code == 0
    assert qgraph("profile", folder / "s.json", "-o", folder / "p.json").code == 0
    given = ("--profiles", folder / "p.json", "--ranges", folder / "ranges.json")
    assert qgraph("quantize", model, *given, "-o", folder / "q").code == 0
    return result


@pytest.mark.parametrize(("text", "named", "instead"), ENDS.values(), ids=ENDS)
def test_the_whole_chain_measures_where_the_selection_reads(
    qgraph: Any, build: Build, tmp_path: Path, text: str, named: str, instead: tuple[str, ...]
) -> None:
    model, data = save(build, tmp_path, text)
    said = quantized(qgraph, model, data).err
    assert named in said and f"instead: {', '.join(instead)}" in said
    report = json.loads((tmp_path / "s.json").read_text())
    assert tuple(report["outputs"]) == instead
    assert all(20 < node["solo"]["sqnr_db"] < 70 for node in report["nodes"])
    d, out = tmp_path / "q" / "D.onnx", tmp_path / "e.json"
    result = qgraph("evaluate", model, d, "--data", data, "-o", out)
    assert result.code == 0 and named in result.out
    evaluation = json.loads(out.read_text())
    # INT8 of two layers, at numbers of order 1
    assert 20 < evaluation["variants"][1]["metrics"]["sqnr_db"] < 60
    bundle = tmp_path / "bundle"
    assert qgraph("handoff", d, "--source", model, "--data", data, "-o", bundle).code == 0
    assert qgraph("verify", bundle).code == 0


@pytest.mark.parametrize("engine", ["switch", "gradient"])
def test_every_engine_looks_there(qgraph: Any, build: Build, tmp_path: Path, engine: str) -> None:
    model, data = save(build, tmp_path, DETECTOR)
    given = ("--data", data, "--engine", engine, "-o", tmp_path / "s.json")
    result = qgraph("sensitivity", "--fast", model, *given)
    assert result.code == 0 and "instead: boxes, s" in result.err


@pytest.mark.parametrize("engine", ["wavefront", "gradient"])
def test_a_mask_handed_through_and_one_of_infinity_stop_no_engine(
    qgraph: Any, build: Build, tmp_path: Path, engine: str
) -> None:
    text = (
        "(float[N,16] x) => (int64[N,1] y, bool[N,16] seen, float[N,32] b) <float never = {-inf}>"
        f" {{ {BODY} seen = Greater(x, never) s = Where(seen, c, never)"
        " [label] y = ArgMax<axis = 1>(s) }"
    )
    model, data = save(build, tmp_path, text)
    given = ("--data", data, "--engine", engine, "-o", tmp_path / "s.json")
    result = qgraph("sensitivity", "--fast", model, *given)
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "s.json").read_text())["outputs"] == ["b", "c"]


def test_profiles_are_measured_there_too(qgraph: Any, build: Build, tmp_path: Path) -> None:
    model, data = save(build, tmp_path, BEST)
    quantized(qgraph, model, data)
    given = ("--model", model, "--data", data, "--ranges", tmp_path / "ranges.json")
    out = tmp_path / "measured.json"
    asked = ("--budget", "sqnr_db>=1", *given, "-o", out)
    assert qgraph("profile", tmp_path / "s.json", *asked).code == 0
    found = {item["name"]: item for item in json.loads(out.read_text())["profiles"]}
    assert set(found["budget"]["quantize"]) == set(found["D"]["quantize"])
    assert found["D"]["measured"]["sqnr_db"] > 20


@pytest.mark.parametrize("inner", ["b", "c"])
def test_an_inner_tensor_is_scored_at_where_asked(
    qgraph: Any, build: Build, tmp_path: Path, inner: str
) -> None:
    model, data = save(build, tmp_path, BEST)
    quantized(qgraph, model, data, "--outputs", inner)
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["outputs"] == [inner]
    # what stands behind the tensor cannot be seen there
    behind = [node for node in report["nodes"] if node["solo"]["mse"] == 0]
    assert len(behind) == (inner == "b")


@pytest.mark.parametrize(("name", "near"), [("bx", "b"), ("which", ""), ("x", "")])
def test_what_is_no_tensor_of_floats_is_refused_with_what_there_is(
    qgraph: Any, build: Build, tmp_path: Path, name: str, near: str
) -> None:
    model, _ = save(build, tmp_path, BEST.replace("which", "chosen"))
    result = qgraph("sensitivity", model, "--outputs", name, "-o", tmp_path / "s.json")
    assert result.code == 2 and "outputs are best, chosen" in result.err
    assert f"nearest are {near}" in result.err or not near


@pytest.mark.parametrize("draw", ["RandomUniformLike", "RandomNormalLike"])
def test_randomness_is_said_by_every_step_that_gives_figures(
    qgraph: Any, build: Build, tmp_path: Path, draw: str
) -> None:
    text = f"(float[N,16] x) => (float[N,16] y) {{ {BODY} [noise] n = {draw}(c) y = Add(c, n) }}"
    model, data = save(build, tmp_path, text)
    assert f"{draw} 'noise'" in quantized(qgraph, model, data).err
    d, out = tmp_path / "q" / "D.onnx", tmp_path / "e.json"
    result = qgraph("evaluate", model, d, "--data", data, "-o", out)
    assert result.code == 0 and f"{draw} 'noise'" in result.out
    assert f"{draw} 'noise'" in json.loads(out.read_text())["run"]["warnings"][0]
    result = qgraph("handoff", d, "--source", model, "--data", data, "-o", tmp_path / "b")
    assert result.code == 0 and f"{draw} 'noise'" in result.err
    assert f"{draw} 'noise'" in (tmp_path / "b" / "README.md").read_text()


def unloadable(model: onnx.ModelProto) -> None:
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("axis", 7))


def unrunnable(model: onnx.ModelProto) -> None:
    """Give a MatMul a weight that its data does not fit: sizes are dynamic, so that it loads."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_param = "width"
    weight = next(item for item in model.graph.initializer if list(item.dims) == [16, 32])
    cut = onnx.numpy_helper.to_array(weight)[:8]
    weight.CopyFrom(onnx.numpy_helper.from_array(cut, weight.name))


@pytest.mark.parametrize("damage", [unloadable, unrunnable])
def test_a_variant_that_does_not_run_is_named_and_the_others_keep_their_figures(
    qgraph: Any, build: Build, tmp_path: Path, damage: Callable[[onnx.ModelProto], None]
) -> None:
    text = f"(float[N,16] x) => (float[N,16] y) {{ {BODY} y = Softmax(c) }}"
    model, data = save(build, tmp_path, text)
    quantized(qgraph, model, data)
    broken = onnx.load(tmp_path / "q" / "D.onnx")
    damage(broken)
    onnx.save(broken, tmp_path / "q" / "D.onnx")
    variants = [tmp_path / "q" / f"{name}.onnx" for name in "AD"]
    out = tmp_path / "e.json"
    result = qgraph("evaluate", model, *variants, "--data", data, "-o", out)
    assert result.code == 3 and "D: no metrics" in result.out
    found = json.loads(out.read_text())
    assert [item["name"] for item in found["variants"]] == ["float", "A"]
    assert "sqnr_db" in found["variants"][1]["metrics"]
    (failed,) = found["failures"]
    assert (failed["variant"], failed["exit_code"]) == ("D", 3) and failed["reason"]

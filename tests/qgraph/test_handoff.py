"""`qgraph handoff` and `qgraph verify`: what a bundle holds, and that it holds."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from graphs import built, drawn
from onnx import numpy_helper
from safetensors.numpy import load_file

import qgraph as api
from qgraph._graph.run.session import Semantics, open_session

if TYPE_CHECKING:
    from tests.qgraph.conftest import Command, Files
else:
    Command = Files = object

Snapshot = Callable[[Path], dict[str, str]]
BIN = Path(sys.executable).parent
BASH, SHA256SUM = (shutil.which(name) or name for name in ("bash", "sha256sum"))
TRTEXEC = Path(__file__).with_name("trtexec.py")
flags_of: Callable[[str], set[str]] = runpy.run_path(str(TRTEXEC))["flags_of"]


@pytest.fixture(scope="module")
def bundle(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of profile B of the MLP: two nodes INT8, two float."""
    folder = tmp_path_factory.mktemp("bundle") / "B"
    api.handoff(files.folder / "B.onnx", folder, data=[files.data])
    return folder


@pytest.fixture(scope="module")
def decoder_bundle(
    tmp_path_factory: pytest.TempPathFactory, make_decoder: Callable[[Path], Path]
) -> Path:
    """The bundle of a decoder with a cache, everything quantized, made-up data."""
    folder = tmp_path_factory.mktemp("decoder")
    model = make_decoder(folder)
    report, ranges = api.sensitivity(model, samples=1)
    for made in api.quantize(model, api.profile(report), ranges, names=["D"]):
        made.save(folder)
    api.handoff(folder / "D.onnx", folder / "bundle")
    return folder / "bundle"


def manifest(bundle: Path) -> Any:
    return json.loads((bundle / "handoff.json").read_text())


def array(bundle: Path, part: dict[str, Any]) -> Any:
    return np.fromfile(bundle / part["file"], part["dtype"]).reshape(part["shape"])


def test_a_bundle_is_whole_and_says_what_it_is(qgraph: Command, bundle: Path, files: Files) -> None:
    assert qgraph("verify", bundle).code == 0
    content = manifest(bundle)
    profiles = json.loads(files.profiles.read_text())["profiles"]
    profile = next(item for item in profiles if item["name"] == "B")
    assert content["origin"]["profile"] == "B"
    assert content["origin"]["scheme"]["name"] == "int8"
    assert {r["node"] for r in content["precision"] if r["precision"] == "int8"} == set(
        profile["quantize"]
    )
    reasons = {row["node"]: row["reason"] for row in content["precision"]}
    assert all(reasons[item["name"]] == item["reason"] for item in profile["keep"])
    evaluation = json.loads(files.evaluation.read_text())
    measured = next(item for item in evaluation["variants"] if item["name"] == "B")
    assert content["evaluation"]["metrics"] == measured["metrics"]
    # one count of MACs, over all nodes that multiply matrices
    assert content["counts"]["int8_macs"] == pytest.approx(measured["int8_share"]["macs"], abs=1e-6)
    assert content["calibration"]["samples"] == 4
    assert {part["target"] for part in content["lint"]} == {"tensorrt-10", "tensorrt-11"}


def test_a_bundle_says_what_is_faster_than_fp16_and_what_is_slower(
    qgraph: Command, tmp_path: Path
) -> None:
    """One of three weights in INT8 and two in fp32: 9 bytes to read where fp16 has 6."""
    text = """net (float[N,64] x) => (float[N,64] y)
    { [a] h = MatMul(x, u) i = Tanh(h) [b] j = MatMul(i, v) k = Tanh(j) [c] y = MatMul(k, w) }"""
    onnx.save(built(text, **drawn(dict.fromkeys("uvw", (64, 64)))), tmp_path / "net.onnx")
    report, ranges = api.sensitivity(tmp_path / "net.onnx", small=True, fast=True)
    (made,) = api.quantize(tmp_path / "net.onnx", api.profile(report), ranges, names=["A"])
    assert len(made.profile.quantize) == 1
    told = qgraph("handoff", made.save(tmp_path), "-o", tmp_path / "bundle")
    for page in (told.out, (tmp_path / "bundle/README.md").read_text()):
        assert "at most 1.20 times as fast as in fp16" in page  # 3 products in the time of 2.5
        assert "slower than in fp16, at least 1.50 times the time: floats are fp32" in page


def test_every_file_named_is_there(bundle: Path) -> None:
    for item in manifest(bundle)["files"]:
        assert (bundle / item["path"]).exists(), item


def test_sha256sum_itself_agrees(bundle: Path) -> None:
    done = subprocess.run([SHA256SUM, "--quiet", "--check", "SHA256SUMS"], check=False, cwd=bundle)
    assert done.returncode == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("operand", [0, 1])
def test_a_scale_that_is_no_number_is_refused_by_name(
    qgraph: Command, files: Files, tmp_path: Path, operand: int, value: float
) -> None:
    """Behind a Relu or a selection no output need be NaN, and yet no engine is built of it."""
    model = onnx.load(files.folder / "B.onnx")
    makers = {node.output[0]: node for node in model.graph.node}
    inputs = [node.input for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    dequantizer = next(
        makers[names[operand]] for names in inputs
        if names[1] in makers and makers[names[1]].op_type == "DequantizeLinear"
    )  # fmt: skip
    scale = next(t for t in model.graph.initializer if t.name == dequantizer.input[1])
    values = numpy_helper.to_array(scale).copy()
    values.flat[-1] = value
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    onnx.save(model, tmp_path / "B.onnx")
    done = qgraph("handoff", tmp_path / "B.onnx", "-o", tmp_path / "bundle")
    assert done.code == 3
    assert dequantizer.name in done.err and str(value) in done.err
    assert not (tmp_path / "bundle").exists()


def test_scales_in_json_and_safetensors_are_those_of_the_model(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = {n.input[0]: n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    scales = load_file(bundle / "scales.safetensors")
    rows = [row for row in manifest(bundle)["precision"] if row["precision"] == "int8"]
    assert len(rows) == len(scales) == 2
    for row in rows:
        tensor = row["weight"]["tensor"]
        np.testing.assert_array_equal(scales[tensor], values[weights[tensor]])
        assert row["weight"]["largest"] == pytest.approx(float(scales[tensor].max()))


def test_macs_are_those_of_the_measured_shapes(bundle: Path) -> None:
    for row in manifest(bundle)["precision"]:
        rows, columns = 16, 16
        assert row["gain"]["macs"] == rows * columns


def test_golden_outputs_are_the_models_own(bundle: Path, files: Files) -> None:
    case = manifest(bundle)["golden"]["cases"][0]
    feed = {part["name"]: array(bundle, part) for part in case["inputs"]}
    for model, parts in (
        (bundle / "model.onnx", case["outputs"]),
        (files.model, case["float_outputs"]),
    ):
        found = open_session(model, semantics=Semantics.EXACT).run(feed)
        for part in parts:
            np.testing.assert_array_equal(array(bundle, part), found[part["name"]])


def test_the_tolerance_is_above_rounding_and_catches_another_model(
    bundle: Path, files: Files
) -> None:
    case = manifest(bundle)["golden"]["cases"][0]
    allowed = {item["output"]: item for item in case["tolerances"]}["y"]
    feed = {part["name"]: array(bundle, part) for part in case["inputs"]}
    golden = array(bundle, case["outputs"][0])

    def rms(model: Path, semantics: Semantics) -> float:
        found = open_session(model, semantics=semantics).run(feed)["y"]
        return float(np.sqrt(np.mean(np.square(found - golden))))

    assert rms(bundle / "model.onnx", Semantics.FAST) <= allowed["rms"]
    assert allowed["measured_rms"] < allowed["rms"]
    wrong = onnx.load(bundle / "model.onnx")
    scale = next(t for t in wrong.graph.initializer if t.name.endswith("_scale"))
    scale.CopyFrom(
        numpy_helper.from_array(
            np.asarray(numpy_helper.to_array(scale) * 2, np.float32), scale.name
        )
    )
    path = files.folder / "wrong.onnx"
    onnx.save(wrong, path)
    assert rms(path, Semantics.EXACT) > allowed["rms"]
    path.unlink()


def test_a_decoder_has_a_prefill_and_a_decode_step(decoder_bundle: Path) -> None:
    content = manifest(decoder_bundle)
    assert [item["name"] for item in content["shape_profiles"]] == ["prefill", "decode"]
    prefill, decode = content["golden"]["cases"]
    shapes = {part["name"]: part["shape"] for part in decode["inputs"]}
    before = {part["name"]: part["shape"] for part in prefill["outputs"]}
    assert shapes["inputs_embeds"][1] == 1
    assert shapes["past_key_values.0.key"] == before["present.0.key"]
    assert shapes["attention_mask"][1] == before["present.0.key"][2] + 1
    assert content["golden"]["synthetic"]
    for profile in content["shape_profiles"]:
        for size in ("min", "opt", "max"):
            past = profile[size]["past_key_values.0.key"][2]
            assert profile[size]["attention_mask"][1] == past + profile[size]["inputs_embeds"][1]


def test_a_float_model_is_said_to_be_one(qgraph: Command, files: Files, tmp_path: Path) -> None:
    made = qgraph("handoff", files.model, "--data", files.data, "-o", tmp_path / "bundle")
    assert made.code == 0 and "no node of this model is INT8 or FP8" in made.err


def test_axes_can_be_set_and_must_exist(qgraph: Command, files: Files, tmp_path: Path) -> None:
    model = files.folder / "B.onnx"
    made = qgraph("handoff", model, "-o", tmp_path / "b", "--axis", "batch=1:4:8", "--json")
    assert made.json["shape_profiles"][0]["max"] == {"x": [8, 16]}
    assert qgraph("handoff", model, "-o", tmp_path / "c", "--axis", "rows=1:4:8").code == 2
    assert qgraph("handoff", model, "-o", tmp_path / "c", "--axis", "batch=4:1:8").code == 2
    assert not (tmp_path / "c").exists()


def test_axes_of_one_size_are_named_with_how_to_change_them(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    command = ["handoff", files.folder / "B.onnx", "--data", files.data, "-o", tmp_path / "b"]
    assert "batch = 1. The engine takes no other; for more give --axis" in qgraph(*command).out
    assert "--axis batch=MIN:OPT:MAX" in (tmp_path / "b" / "README.md").read_text()
    for sizes in ("1:4:8", "4:4:4"):
        assert "no other" not in qgraph(*command, "--axis", f"batch={sizes}").out


def test_a_bundle_without_the_float_model_says_what_is_missing(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(files.folder / "B.onnx", alone)
    command = ["handoff", alone, "--data", files.data, "-o", tmp_path / "b"]
    assert "Give it with --source" in qgraph(*command).err
    assert "--source" not in qgraph(*command, "--source", files.model).err


def test_a_second_run_gives_the_same_bytes(
    bundle: Path, files: Files, tmp_path: Path, snapshot: Snapshot
) -> None:
    api.handoff(files.folder / "B.onnx", tmp_path / "again", data=[files.data])
    assert snapshot(tmp_path / "again") == snapshot(bundle)


def test_a_bundle_replaces_an_older_one_and_nothing_else(
    bundle: Path, files: Files, tmp_path: Path, snapshot: Snapshot
) -> None:
    target = tmp_path / "bundle"
    api.handoff(files.folder / "D.onnx", target)
    api.handoff(files.folder / "B.onnx", target, data=[files.data])
    assert snapshot(target) == snapshot(bundle)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match=r"notes\.txt"):
        api.handoff(files.folder / "D.onnx", target)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(Exception, match="not a bundle"):
        api.handoff(files.folder / "D.onnx", other)
    assert list(other.iterdir()) == [other / "thesis.txt"]


def alter(folder: Path) -> None:
    path = folder / "golden/batch/inputs/000_x.dat"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def remove(folder: Path) -> None:
    (folder / "engine_times.py").unlink()


def add(folder: Path) -> None:
    (folder / "golden/extra.dat").write_bytes(b"")


def link(folder: Path) -> None:
    target = folder.with_name("elsewhere.onnx")
    (folder / "model.onnx").rename(target)
    (folder / "model.onnx").symlink_to(target)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (alter, "000_x.dat was altered"),
        (remove, "engine_times.py is missing"),
        (add, "golden/extra.dat is extra"),
        (link, "model.onnx is no regular file"),
    ],
)
def test_one_changed_file_is_noticed(
    qgraph: Command, bundle: Path, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    change(copy)
    result = qgraph("verify", copy)
    assert result.code == 3
    assert named in result.err
    assert named in qgraph("verify", copy, "--json").json["problems"][0]


def test_verify_knows_runs_and_files(qgraph: Command, files: Files, tmp_path: Path) -> None:
    assert qgraph("verify", files.sensitivity).code == 0
    assert qgraph("verify", files.folder).code == 0
    broken = json.loads(files.profiles.read_text()) | {"surprise": 1}
    (tmp_path / "profiles.json").write_text(json.dumps(broken))
    assert qgraph("verify", tmp_path / "profiles.json").code == 3
    (tmp_path / "notes.txt").write_text("mine")
    assert qgraph("verify", tmp_path / "notes.txt").code == 3
    assert qgraph("verify", tmp_path / "nothing").code == 3


def test_a_model_that_does_not_build_is_bundled_with_exit_code_7(
    qgraph: Command, files: Files, tmp_path: Path
) -> None:
    model = onnx.load(files.folder / "D.onnx")
    node = next(n for n in model.graph.node if n.op_type == "DequantizeLinear")
    scale = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(scale).copy()
    values.flat[0] = 0
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    onnx.save(model, tmp_path / "broken.onnx")
    result = qgraph("handoff", tmp_path / "broken.onnx", "-o", tmp_path / "bundle")
    assert result.code == 7
    assert "will not build" in result.err


def run_script(
    bundle: Path, name: str, output: Path, version: str, **more: str
) -> subprocess.CompletedProcess[str]:
    wrapper = output.with_name("trtexec")
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TRTEXEC}" "$@"\n')
    wrapper.chmod(0o755)
    environment = {**os.environ, "TRTEXEC": str(wrapper), "PYTHON": sys.executable}
    environment |= {"TRT_VERSION": version, **more}
    return subprocess.run(
        [BASH, str(bundle / name), str(output)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize("version", ["10.13", "10.16", "11.0", "11.3"])
@pytest.mark.parametrize("kind", ["bundle", "decoder_bundle"])
def test_the_build_scripts_run_on_documented_flags_alone(
    request: pytest.FixtureRequest, qgraph: Command, tmp_path: Path, kind: str, version: str
) -> None:
    bundle: Path = request.getfixturevalue(kind)
    name = f"build_trt{version[:2]}.sh"
    done = run_script(bundle, name, tmp_path / "engine", version)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["schema"] == "qgraph.engine_times/1"
    assert report["model"] == manifest(bundle)["model"]
    assert [c["name"] for c in report["cases"]] == [
        c["name"] for c in manifest(bundle)["golden"]["cases"]
    ]
    for case in report["cases"]:
        assert case["gpu_ms"] == {"p50": 1.5, "p90": 1.9}
        assert case["checks"] and all(check["ok"] for check in case["checks"])
    # trtexec's own comparison came with 11.1; a decoder's cases have other names
    checked = (tmp_path / "engine/batch_check.log").exists()
    assert checked == (version == "11.3" and kind == "bundle")
    assert qgraph("verify", bundle).code == 0


def test_the_report_shows_what_the_target_measured(
    qgraph: Command, bundle: Path, files: Files, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("evaluation", "sensitivity", "profiles"):
        shutil.copy(getattr(files, name), run)
    done = run_script(bundle, "build_trt11.sh", run / "bundle_trt11", "11.1")
    assert done.returncode == 0, done.stderr
    assert qgraph("verify", run / "bundle_trt11/engine_times.json").code == 0
    assert qgraph("report", run).code == 0
    line = "Measured with TensorRT (trt11), B: batch 1.5 ms (median on the GPU)"
    assert line in (run / "report.md").read_text()
    assert line in (run / "report.html").read_text()
    times = run / "bundle_trt11/engine_times.json"
    content = json.loads(times.read_text())
    content["model"]["sha256"] = "0" * 64
    times.write_text(json.dumps(content))
    assert qgraph("report", run).code == 0
    assert "TensorRT (trt11)" not in (run / "report.md").read_text()


@pytest.mark.parametrize("spoiled", ["0.5", "nan"])
@pytest.mark.parametrize("version", ["10.14", "11.1"])
def test_the_build_scripts_fail_on_wrong_outputs(
    bundle: Path, tmp_path: Path, version: str, spoiled: str
) -> None:
    name = f"build_trt{version[:2]}.sh"
    done = run_script(bundle, name, tmp_path / "engine", version, TRT_SPOIL=spoiled)
    assert done.returncode == 1


def test_the_build_scripts_refuse_an_altered_bundle(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    alter(copy)
    done = run_script(copy, "build_trt10.sh", tmp_path / "engine", "10.15")
    assert done.returncode == 1
    assert "000_x.dat" in done.stderr + done.stdout


@pytest.mark.parametrize("kind", ["bundle", "decoder_bundle"])
def test_all_scripts_pass_shellcheck(request: pytest.FixtureRequest, kind: str) -> None:
    bundle: Path = request.getfixturevalue(kind)
    scripts = sorted(map(str, bundle.glob("*.sh")))
    assert len(scripts) == 3
    done = subprocess.run(
        [shutil.which("shellcheck") or BIN / "shellcheck", *scripts],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


VERSIONS = {
    "build_trt10.sh": ("10.13", "10.14", "10.15", "10.16"),
    "build_trt11.sh": ("11.0", "11.1", "11.2", "11.3"),
}
ASKED_FOR = {"--loadRefOutputs", "--accuracyAlgorithm", "--accuracyThreshold"}
"""Used where `trtexec --help` lists the first."""


@pytest.mark.parametrize("kind", ["bundle", "decoder_bundle"])
@pytest.mark.parametrize("script", list(VERSIONS))
def test_every_flag_is_in_the_list_of_every_version_the_script_names(
    request: pytest.FixtureRequest, script: str, kind: str
) -> None:
    """The lists are NVIDIA's help texts: trtexec_flags.json says of which commit, and when read."""
    bundle: Path = request.getfixturevalue(kind)
    commands = [
        line for line in (bundle / script).read_text().splitlines() if not line.startswith("#")
    ]
    used = set(re.findall(r"(?<![\w-])--[A-Za-z][\w-]+", "\n".join(commands)))
    used -= {"--quiet", "--check", "--engine-layers"}  # sha256sum's, and ours
    assert {"--stronglyTyped", "--onnx", "--loadInputs", "--minShapes"} <= used
    for version in VERSIONS[script]:
        missing = used - flags_of(version)
        assert missing <= ASKED_FOR, version
    assert "--loadRefOutputs" not in used or "loadRefOutputs" in "".join(
        line for line in commands if line.startswith("if ")
    )


def test_what_a_version_removed_is_known() -> None:
    assert {"--int8", "--fp16", "--best", "--calib", "--precisionConstraints"} <= flags_of("10.13")
    assert not {"--int8", "--fp16", "--best", "--calib", "--precisionConstraints"} & flags_of(
        "11.0"
    )
    assert "--loadRefOutputs" in flags_of("11.1") - flags_of("11.0")


def test_golden_files_load_in_polygraphy(decoder_bundle: Path) -> None:
    polygraphy = pytest.importorskip("polygraphy")
    from polygraphy.comparator import RunResults
    from polygraphy.json import load_json

    assert polygraphy.__version__
    for case in manifest(decoder_bundle)["golden"]["cases"]:
        (feed,) = load_json(str(decoder_bundle / case["polygraphy_inputs"]))
        for part in case["inputs"]:
            np.testing.assert_array_equal(feed[part["name"]], array(decoder_bundle, part))
        results = RunResults.load(str(decoder_bundle / case["polygraphy_outputs"]))
        ((_, (iteration,)),) = results.items()
        for part in case["outputs"]:
            np.testing.assert_array_equal(iteration[part["name"]], array(decoder_bundle, part))


def test_the_float_model_is_found_in_the_folder_above(
    files: Any, qgraph: Any, tmp_path: Path
) -> None:
    """As after `qgraph quantize model.onnx -o work`, with reports beside the float model."""
    for name in ("mlp.onnx", "sensitivity.json", "evaluation.json"):
        shutil.copy(files.folder / name, tmp_path / name)
    (tmp_path / "profiles.json").write_text("{}")  # what another tool may have there
    (tmp_path / "work").mkdir()
    shutil.copy(files.folder / "D.onnx", tmp_path / "work")
    made = qgraph("handoff", tmp_path / "work/D.onnx", "-o", tmp_path / "bundle", "--json").json
    assert all(case["float_outputs"] for case in made["golden"]["cases"])
    assert made["evaluation"]["metrics"] and made["precision"][0]["cost"]["rank"]

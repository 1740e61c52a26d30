"""What a mistake costs: one message, the documented exit code, nothing written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

Command = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, str]]


def test_an_unknown_option_is_a_usage_error(qgraph: Command) -> None:
    result = qgraph("sensitivity", "m.onnx", "--quickly")
    assert result.code == 2 and "--quickly" in result.err


def test_an_unknown_command_is_a_usage_error(qgraph: Command) -> None:
    assert qgraph("sensitize").code == 2


def test_no_command_prints_the_help_and_is_a_usage_error(qgraph: Command) -> None:
    result = qgraph()
    assert result.code == 2 and "Usage: qgraph" in result.out + result.err


@pytest.mark.parametrize(
    "arguments",
    [
        "export gone -o out", "sensitivity gone", "sensitivity MODEL --data gone -o out",
        "sensitivity MODEL --data DATA --ranges gone -o out", "profile gone -o out",
        "quantize MODEL --profiles gone -o out", "evaluate gone --data DATA -o out",
        "evaluate MODEL --data gone -o out", "report gone", "compare gone gone",
        "lint gone", "lint MODEL --sensitivity gone", "handoff gone -o out",
        "handoff MODEL --data gone -o out", "handoff MODEL --source gone -o out",
        "handoff gone --engine-layers gone", "verify gone", "run gone",
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_bad_input_whatever_its_kind(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path, arguments: str
) -> None:
    places = {"MODEL": mlp, "DATA": data, "gone": tmp_path / "gone", "out": tmp_path / "out"}
    result = qgraph(*(places.get(word, word) for word in arguments.split()))
    assert result.code == 3 and str(tmp_path / "gone") in result.err.replace("\n", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x93garbage that is no protobuf" * 9, "not an ONNX model"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
    ids=["empty", "garbage", "html", "lfs"],
)
def test_a_file_that_is_no_model_is_bad_input(
    qgraph: Command, tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    result = qgraph("sensitivity", path, "-o", tmp_path / "s.json")
    assert result.code == 3
    assert str(path) in result.err and says in result.err


@pytest.mark.parametrize("engine", ["wavefront", "switch"])
def test_too_small_a_memory_budget_is_refused_with_what_it_takes(
    qgraph: Command, mlp: Path, data: Path, tmp_path: Path, engine: str
) -> None:
    output = tmp_path / "s.json"
    arguments = ["sensitivity", "--fast", mlp, "--data", data, "-o", output, "--engine", engine]
    result = qgraph(*arguments, "--memory-budget", "1MiB")
    assert result.code == 5
    found = re.search(r"Give --memory-budget (\d+)MiB or more", result.err)
    assert found and not output.exists()
    # what this process holds may have grown since
    assert qgraph(*arguments, "--memory-budget", f"{int(found[1]) + 500}MiB").code == 0


def test_a_missing_model_is_bad_input(qgraph: Command, tmp_path: Path) -> None:
    result = qgraph("sensitivity", tmp_path / "absent.onnx", "-o", tmp_path / "s.json")
    assert result.code == 3 and "absent.onnx" in result.err


def test_a_report_says_which_files_of_the_run_are_missing(qgraph: Command, tmp_path: Path) -> None:
    result = qgraph("report", tmp_path)
    assert result.code == 3 and "no sensitivity.json, profiles.json" in result.err
    assert "qgraph run" in result.err


def test_missing_data_is_bad_input(qgraph: Command, mlp: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.npz"
    result = qgraph("sensitivity", "--fast", mlp, "--data", absent, "-o", tmp_path / "s.json")
    assert result.code == 3 and "absent.npz" in result.err


@pytest.mark.parametrize(
    "arrays",
    [
        {"z": np.zeros((2, 16), np.float32)},
        {"x": np.zeros((2, 7), np.float32)},
        {"x": np.zeros((2, 16), np.float64)},
        {"x": np.full((2, 16), np.nan, np.float32)},
        {"x": np.zeros((0, 16), np.float32)},
    ],
    ids=["name", "shape", "dtype", "nan", "no sample"],
)
def test_data_that_does_not_fit_the_model_is_bad_input(
    qgraph: Command, mlp: Path, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    data = ("--data", tmp_path / "d.npz")
    assert qgraph("sensitivity", "--fast", mlp, *data, "-o", tmp_path / "s.json").code == 3
    assert qgraph("evaluate", mlp, *data, "-o", tmp_path / "e.json").code == 3


def edited(path: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Write a copy of a JSON file with something changed."""
    content = json.loads(path.read_text())
    change(content)
    target.write_text(json.dumps(content))
    return target


def test_a_profile_that_names_an_absent_node_lists_the_nearest(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    profiles = edited(
        files.profiles,
        tmp_path / "p.json",
        lambda c: c["profiles"][0].update(quantize=["dwon"], keep=[]),
    )
    common = ("--profiles", profiles, "--ranges", files.ranges, "-o", tmp_path)
    result = qgraph("quantize", files.model, *common)
    assert result.code == 2
    assert "'dwon'" in result.err and "down" in result.err
    assert not list(tmp_path.glob("*.onnx"))


def test_a_profile_of_another_model_is_refused_with_both_hashes(
    qgraph: Command, files: Any, make_mlp: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_mlp(tmp_path, seed=2)
    result = qgraph("quantize", other, "--profiles", files.profiles, "-o", tmp_path / "out")
    assert result.code == 2
    made_for = json.loads(files.profiles.read_text())["model"]["sha256"]
    assert made_for[:16] in result.err and result.err.count("…") >= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "JSON"),
        ('{"schema": "qgraph.sensitivity/1"}', "qgraph.profiles/1"),
        ('{"schema": "qgraph.profiles/2"}', "qgraph.profiles/1"),
        ('{"schema": "qgraph.profiles/1", "nodes": []}', "$.model"),
        ('{"schema": "qgraph.profiles/1", "schema": "qgraph.profiles/1"}', "schema"),
        ('{"schema": NaN}', "NaN"),
    ],
)
def test_bad_profile_json_is_a_usage_error_that_names_the_file(
    qgraph: Command, mlp: Path, tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    result = qgraph("quantize", mlp, "--profiles", path, "-o", tmp_path / "out")
    assert result.code == 2
    assert "p.json" in result.err and says in result.err


@pytest.mark.parametrize(
    "line",
    [
        "fast = true",
        "[sensitivity]\nsample = 3",
        "[profile]\ncuts = { A = 2.0 }",
        "[sensitivity]\nmetric = 'best'",
        "[sensitivity]\nsamples = 0",
        "source = 'checkpoint'",
        "name = 'twice'",
    ],
)
def test_a_bad_recipe_is_a_usage_error(
    qgraph: Command, mlp: Path, tmp_path: Path, line: str
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"name = 'r'\nmodel = '{mlp.name}'\n{line}\n")
    result = qgraph("run", recipe, "-o", tmp_path / "out")
    assert result.code == 2 and "r.toml" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["nothing_like_it", "("])
@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_an_expression_that_matches_no_node_is_a_usage_error(
    qgraph: Command, mlp: Path, tmp_path: Path, option: str, pattern: str
) -> None:
    result = qgraph("sensitivity", mlp, option, pattern, "-o", tmp_path / "s.json")
    assert result.code == 2 and option in result.err


@pytest.mark.parametrize("cut", ["A", "A=much", "A=0", "A=1.5", "../A=0.5"])
def test_a_malformed_cut_is_a_usage_error(
    qgraph: Command, files: Any, tmp_path: Path, cut: str
) -> None:
    result = qgraph("profile", files.sensitivity, "--cut", cut, "-o", tmp_path / "p.json")
    assert result.code == 2


def test_a_cut_given_twice_is_a_usage_error(qgraph: Command, files: Any, tmp_path: Path) -> None:
    cuts = ("--cut", "A=0.1", "--cut", "A=0.2")
    result = qgraph("profile", files.sensitivity, *cuts, "-o", tmp_path / "p.json")
    assert result.code == 2 and "twice" in result.err


def test_an_absent_profile_name_lists_those_there_are(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    common = ("--profiles", files.profiles, "--ranges", files.ranges, "-o", tmp_path)
    result = qgraph("quantize", files.model, "--profile", "E", *common)
    assert result.code == 2 and "A, B, C, D" in result.err


def test_an_absent_output_name_lists_those_there_are(
    qgraph: Command, mlp: Path, tmp_path: Path
) -> None:
    result = qgraph("sensitivity", mlp, "--outputs", "z", "-o", tmp_path / "s.json")
    assert result.code == 2 and "outputs are y" in result.err


def cuda_works() -> bool:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    return Path("/proc/driver/nvidia/version").exists()


@pytest.mark.skipif(cuda_works(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_an_environment_fault_and_no_cpu_run(
    qgraph: Command, mlp: Path, tmp_path: Path
) -> None:
    result = qgraph("sensitivity", mlp, "--provider", "cuda", "-o", tmp_path / "s.json")
    assert result.code == 4
    assert "CUDAExecutionProvider was asked for" in result.err
    assert not (tmp_path / "s.json").exists()


@pytest.mark.skipif(cuda_works(), reason="this machine has CUDA")
@pytest.mark.parametrize("extra", [[], ["--allow-cpu-nodes"]])
def test_evaluating_on_cuda_that_is_not_there_never_falls_back(
    qgraph: Command, files: Any, tmp_path: Path, extra: list[str]
) -> None:
    models = [files.model, files.folder / "D.onnx"]
    asked = ["--data", files.data, "--provider", "cuda", "-o", tmp_path / "e.json", *extra]
    result = qgraph("evaluate", *models, *asked)
    assert result.code == 4
    assert "CUDAExecutionProvider was asked for" in result.err
    assert not (tmp_path / "e.json").exists()


@pytest.mark.parametrize("place", ["/dev/null/x/s.json", "/proc/none/s.json"])
def test_an_output_that_cannot_be_written_is_an_environment_fault(
    qgraph: Command, files: Any, place: str
) -> None:
    assert qgraph("sensitivity", files.model, "-o", place).code == 4
    assert qgraph("profile", files.sensitivity, "-o", place).code == 4
    evaluation = ("evaluate", files.model, "--data", files.data, "-o", place)
    assert qgraph(*evaluation).code == 4
    quantized = ("quantize", files.model, "--profiles", files.profiles, "-o", place)
    assert qgraph(*quantized).code == 4
    assert qgraph("report", files.folder, "-o", place).code == 4


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    qgraph: Command, files: Any
) -> None:
    result = qgraph("sensitivity", files.model, "-o", "/dev/null/x.json")
    assert "calibrating" not in result.err


@pytest.mark.parametrize("name", ["mlp.onnx", "data.npz", "ranges.json", "s.md"])
def test_no_output_is_written_over_an_input_or_another_output(
    qgraph: Command, mlp: Path, data: Path, snapshot: Snapshot, tmp_path: Path, name: str
) -> None:
    before = snapshot(tmp_path)
    result = qgraph("sensitivity", "--fast", mlp, "--data", data, "-o", tmp_path / name)
    assert result.code == 2 and "write over" in result.err
    assert snapshot(tmp_path) == before


def test_profiles_are_not_written_over_the_report(
    qgraph: Command, files: Any, snapshot: Snapshot
) -> None:
    before = snapshot(files.folder)
    assert qgraph("profile", files.sensitivity, "-o", files.sensitivity).code == 2
    assert snapshot(files.folder) == before


@pytest.mark.parametrize("name", ["mlp", "../mlp", "sub/A", "/tmp/A"])  # noqa: S108 - refused
def test_a_hand_written_profile_name_writes_neither_over_the_model_nor_elsewhere(
    qgraph: Command, files: Any, mlp: Path, snapshot: Snapshot, tmp_path: Path, name: str
) -> None:
    profiles = edited(
        files.profiles, tmp_path / "p.json", lambda c: c["profiles"][0].update(name=name)
    )
    before = snapshot(tmp_path)
    common = ("--profiles", profiles, "--ranges", files.ranges, "--profile", name)
    assert qgraph("quantize", mlp, *common, "-o", tmp_path).code == 2
    assert snapshot(tmp_path) == before


def test_a_report_of_files_from_different_models_is_refused(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    for name in ("evaluation", "profiles"):
        (tmp_path / f"{name}.json").write_bytes(getattr(files, name).read_bytes())
    edited(
        files.sensitivity,
        tmp_path / "sensitivity.json",
        lambda c: c["model"].update(sha256="0" * 64),
    )
    result = qgraph("report", tmp_path)
    assert result.code == 2 and "0" * 16 in result.err
    assert not (tmp_path / "report.html").exists()


def test_predictions_of_another_model_are_refused(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    other = edited(
        files.profiles, tmp_path / "p.json", lambda c: c["model"].update(sha256="0" * 64)
    )
    common = ("--data", files.data, "--profiles", other, "-o", tmp_path / "e.json")
    assert qgraph("evaluate", files.model, *common).code == 2


def test_a_failed_calibration_leaves_no_ranges_behind(
    qgraph: Command, files: Any, tmp_path: Path
) -> None:
    profiles = edited(
        files.profiles,
        tmp_path / "p.json",
        lambda c: c["profiles"][0].update(quantize=["absent"], keep=[]),
    )
    result = qgraph("quantize", files.model, "--profiles", profiles, "-o", tmp_path / "out")
    assert result.code == 2
    assert not (tmp_path / "out").exists()


def test_an_error_shows_no_traceback(qgraph: Command, tmp_path: Path) -> None:
    result = qgraph("sensitivity", tmp_path / "absent.onnx")
    assert "Traceback" not in result.err + result.out


def test_debug_shows_the_traceback(qgraph: Command, tmp_path: Path) -> None:
    assert "Traceback" in qgraph("sensitivity", tmp_path / "absent.onnx", "--debug").err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["sensitivity", "absent.onnx"], 3), (["sensitivity", "--quickly"], 2), (["profile"], 2)],
    ids=["ours", "unknown option", "missing argument"],
)
def test_json_prints_an_error_as_one_value_on_stdout(
    qgraph: Command, arguments: list[str], code: int
) -> None:
    result = qgraph(*arguments, "--json")
    assert result.code == code
    assert set(result.json) == {"code", "error", "where", "hint"}
    assert result.json["code"] == code and result.json["error"]


def test_a_control_character_in_a_name_does_not_reach_the_terminal(
    qgraph: Command, tmp_path: Path
) -> None:
    result = qgraph("sensitivity", tmp_path / "a\x1b[31mb.onnx")
    assert "\x1b" not in result.err and "\\x1b" in result.err


def test_a_quantized_model_is_refused_as_input(qgraph: Command, files: Any, tmp_path: Path) -> None:
    result = qgraph("sensitivity", files.folder / "D.onnx", "-o", tmp_path / "s.json")
    assert result.code == 3 and "quantized already" in result.err


@pytest.mark.parametrize(
    ("operator", "setting"),
    # a setting of bytes, as TensorFlow's own nodes have, is nothing that graph-surgeon reads
    [("Erfc", {}), ("StatefulPartitionedCall", {"config": b"\x82\xff"}), ("Gelu", {})],
)
def test_an_operator_that_the_exporter_could_not_convert_is_named(
    qgraph: Command, mlp: Path, tmp_path: Path, operator: str, setting: dict[str, Any]
) -> None:
    model = onnx.load(mlp)
    node = model.graph.node[-1]
    left = onnx.helper.make_node(operator, ["left"], list(node.output), "left", **setting)
    node.output[:] = ["left"]
    model.graph.node.append(left)
    model.opset_import[0].version = 17  # Gelu came with 20
    onnx.save(model, tmp_path / "left.onnx")
    result = qgraph("sensitivity", tmp_path / "left.onnx", "-o", tmp_path / "out" / "s.json")
    assert result.code == 3 and operator in result.err and "convert" in result.err
    assert "--data" not in result.err and not list(tmp_path.glob("out/*"))


def test_a_weight_with_nan_is_refused_by_name(qgraph: Command, mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp)
    broken = np.full((16, 16), np.nan, np.float32)
    model.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(broken, "wo"))
    onnx.save(model, mlp)
    result = qgraph("sensitivity", mlp, "-o", tmp_path / "s.json")
    assert result.code == 3 and "'wo'" in result.err


def test_a_recipe_cannot_trust_the_checkpoint_it_names(qgraph: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\nsource = "best.pt"\n[export]\ntrust_pickle = true\n')
    (tmp_path / "best.pt").write_bytes(b"cos\nsystem\n")
    result = qgraph("run", recipe, "-o", tmp_path / "out")
    assert result.code == 2
    assert "a recipe cannot trust a checkpoint" in result.err

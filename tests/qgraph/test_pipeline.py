"""`qgraph run`: what is done is not repeated, what changed is."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qgraph._steps.pipeline import locked

Command = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, str]]

CHAIN = {
    "model.onnx", "ranges.json", "sensitivity.json", "sensitivity.md", "profiles.json",
    "A.onnx", "B.onnx", "C.onnx", "D.onnx", "evaluation.json", "report.html", "report.md",
    "run.json",
}  # fmt: skip


def write_recipe(folder: Path, extra: str = "", *, samples: int = 4) -> Path:
    path = folder / "recipe.toml"
    path.write_text(
        "name = 'small'\nmodel = 'mlp.onnx'\n"
        f"[sensitivity]\ndata = ['data.npz']\nsamples = {samples}\nfast = true\n{extra}"
    )
    return path


@pytest.fixture
def recipe(mlp: Path, data: Path, tmp_path: Path) -> Path:
    """A recipe of the MLP and its data; its run folder in the tests is `out`."""
    return write_recipe(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def finished(qgraph: Command, recipe: Path, out: Path) -> Path:
    """A run folder in which everything is done."""
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    return out


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".qgraph.lock"}


def test_without_the_charts_package_the_run_ends_with_its_table_and_markdown(
    qgraph: Command, recipe: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    done = qgraph("run", recipe, "-o", out, "--quiet")
    assert done.code == 0 and "Deploy" in done.out
    assert "qgraph[report]" in done.err and not (out / "report.html").exists()
    assert (out / "report.md").exists()
    monkeypatch.undo()
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    assert (out / "report.html").exists()


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def changed(folder: Path, before: dict[str, int]) -> set[str]:
    """Return the files written since, the record and the lock left out."""
    now = times(folder)
    names = {name for name in now if now[name] != before.get(name)}
    return names - {"run.json", ".qgraph.lock"}


def test_a_run_writes_every_file_of_the_chain_and_nothing_else(finished: Path) -> None:
    assert visible(finished) == CHAIN


def test_the_record_says_what_each_stage_took(finished: Path) -> None:
    stages = json.loads((finished / "run.json").read_text())["stages"]
    seconds = {item["name"]: item["seconds"] for item in stages}
    assert "ranges" in seconds and min(seconds.values()) > 0
    scoring = json.loads((finished / "sensitivity.json").read_text())["run"]
    assert "ranges_seconds" not in scoring and seconds["sensitivity"] >= scoring["seconds"]


def test_a_run_whose_time_was_up_goes_on_when_it_is_given_more(
    qgraph: Command, recipe: Path, out: Path, finished: Path
) -> None:
    def ranked(folder: Path) -> dict[str, Any]:
        report = json.loads((folder / "sensitivity.json").read_text())
        return {**{node["name"]: node["rank"] for node in report["nodes"]}, **report["run"]}

    short = out.with_name("short")
    write_recipe(recipe.parent, "time_budget = 1e-6\n")
    assert qgraph("run", recipe, "-o", short, "--quiet").code == 0
    assert ranked(short)["engine"] == "screen" and not ranked(short)["complete"]
    assert [path for path in short.iterdir() if path.name.endswith(".journal")]
    before = times(short)
    write_recipe(recipe.parent, "time_budget = 3600\n")
    assert qgraph("run", recipe, "-o", short, "--quiet").code == 0
    assert visible(short) == CHAIN and "ranges.json" not in changed(short, before)
    names = [node["name"] for node in json.loads((out / "sensitivity.json").read_text())["nodes"]]
    assert [ranked(short)[name] for name in names] == [ranked(out)[name] for name in names]


def test_a_run_folder_is_called_after_the_recipe_by_default(
    qgraph: Command, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert qgraph("run", recipe, "--quiet").code == 0
    assert visible(tmp_path / "runs" / "small") == CHAIN


def test_a_key_that_does_not_exist_is_named(qgraph: Command, recipe: Path, out: Path) -> None:
    write_recipe(recipe.parent, "[profile]\ncut = { A = 0.5 }\n")
    result = qgraph("run", recipe, "-o", out)
    assert result.code == 2 and "profile.cut: no such key in a recipe" in result.err
    assert "Did you mean cuts?" in result.err


def test_a_key_with_a_typing_error_is_named_and_not_the_one_it_stands_for(
    qgraph: Command, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('nmae = "small"\nmodel = "model.onnx"\n')
    result = qgraph("run", path)
    assert result.code == 2 and "nmae: no such key in a recipe" in result.err
    assert "Did you mean name?" in result.err


def test_a_second_run_repeats_no_stage(qgraph: Command, recipe: Path, finished: Path) -> None:
    before = times(finished)
    assert qgraph("run", recipe, "-o", finished).code == 0
    assert changed(finished, before) == set()


def test_another_cut_repeats_the_profile_and_what_follows(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    before = times(finished)
    write_recipe(recipe.parent, "[profile]\ncuts = { A = 0.5, B = 0.5, C = 0.8, D = 1.0 }\n")
    assert qgraph("run", recipe, "-o", finished).code == 0
    kept = {"model.onnx", "ranges.json", "sensitivity.json", "sensitivity.md"}
    assert changed(finished, before) == CHAIN - kept - {"run.json"}


def test_models_in_fp16_repeat_quantization_and_what_follows(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    before = times(finished)
    write_recipe(recipe.parent, "[quantize]\ndtype = 'fp16'\n")
    assert qgraph("run", recipe, "-o", finished).code == 0
    made = {"fp16.onnx", *(f"{name}-fp16.onnx" for name in "ABCD")}
    assert visible(finished) == CHAIN - {f"{name}.onnx" for name in "ABCD"} | made
    assert changed(finished, before) == made | {"evaluation.json", "report.html", "report.md"}
    variants = json.loads((finished / "evaluation.json").read_text())["variants"]
    assert [item["name"] for item in variants] == ["float", "fp16", *(f"{n}-fp16" for n in "ABCD")]


def test_a_model_exported_in_fp16_is_not_converted_again(qgraph: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    text = "name = 'r'\nsource = 'c'\nexport.dtype = 'fp16'\nquantize.dtype = 'fp16'\n"
    recipe.write_text(text)
    result = qgraph("run", recipe)
    assert result.code == 2 and "quantize.dtype converts an fp32 model" in result.err


def test_another_title_reaches_the_report(qgraph: Command, recipe: Path, finished: Path) -> None:
    # Both shares round to the same nodes: only the profile's title differs.
    for share in ("0.50", "0.52"):
        write_recipe(recipe.parent, f"[profile]\ncuts = {{ half = {share} }}\n")
        assert qgraph("run", recipe, "-o", finished).code == 0
    assert "52% of macs" in (finished / "report.html").read_text()


def test_other_samples_repeat_everything_but_the_model(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    before = times(finished)
    write_recipe(recipe.parent, samples=2)
    assert qgraph("run", recipe, "-o", finished).code == 0
    # Ranges are always written again; what they lead to may come out the same and be kept.
    assert {"ranges.json", "sensitivity.json"} <= changed(finished, before)
    assert "model.onnx" not in changed(finished, before)


def test_another_model_behind_the_same_path_repeats_everything(
    qgraph: Command, recipe: Path, finished: Path, make_mlp: Callable[..., Path]
) -> None:
    before = times(finished)
    make_mlp(recipe.parent, seed=5)
    assert qgraph("run", recipe, "-o", finished).code == 0
    assert changed(finished, before) == CHAIN - {"run.json"}


def test_a_changed_data_file_of_the_source_model_repeats_the_run(
    qgraph: Command, recipe: Path, mlp: Path, out: Path
) -> None:
    onnx.save(onnx.load(mlp), mlp, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    weights = mlp.with_name("w.bin")
    content = bytearray(weights.read_bytes())
    content[:4] = np.float32(0.25).tobytes()
    weights.write_bytes(content)
    before = times(out)
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    assert "model.onnx" in changed(out, before)


@pytest.mark.parametrize("name", sorted(CHAIN - {"run.json"}))
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_output_is_made_again(
    qgraph: Command, recipe: Path, finished: Path, snapshot: Snapshot, name: str, damage: str
) -> None:
    path, expected = finished / name, snapshot(finished)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    assert qgraph("run", recipe, "-o", finished, "--quiet").code == 0
    if name in ("model.onnx", "ranges.json", "profiles.json", "A.onnx", "D.onnx"):
        assert snapshot(finished)[name] == expected[name]
    else:
        assert path.stat().st_size > 100  # timings differ from run to run


def test_fresh_repeats_everything(qgraph: Command, recipe: Path, finished: Path) -> None:
    before = times(finished)
    assert qgraph("run", recipe, "-o", finished, "--fresh").code == 0
    assert changed(finished, before) == CHAIN - {"run.json"}


@pytest.mark.parametrize("content", ["", "{", '{"schema": "qgraph.run/9"}', "[1]"])
def test_a_damaged_record_is_refused_with_the_way_out(
    qgraph: Command, recipe: Path, finished: Path, content: str
) -> None:
    (finished / "run.json").write_text(content)
    before = times(finished)
    result = qgraph("run", recipe, "-o", finished)
    assert result.code == 2 and "--fresh" in result.err
    assert changed(finished, before) == set()
    assert qgraph("run", recipe, "-o", finished, "--fresh").code == 0


def test_a_run_never_writes_over_its_own_model(qgraph: Command, tmp_path: Path, mlp: Path) -> None:
    model = mlp.rename(tmp_path / "model.onnx")
    content = model.read_bytes()
    recipe = tmp_path / "r.toml"
    recipe.write_text("name = 'r'\nmodel = 'model.onnx'\n")
    result = qgraph("run", recipe, "-o", tmp_path)
    assert result.code == 2 and "write over" in result.err
    assert model.read_bytes() == content


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("", "names no data"),
        ("[sensitivity]\ndata = ['data.npz']\n[evaluate]\ndata = ['other.npz']\n", "other.npz"),
    ],
)
def test_what_the_last_stage_lacks_is_said_before_the_first(
    qgraph: Command, mlp: Path, data: Path, out: Path, part: str, said: str
) -> None:
    recipe = mlp.parent / "r.toml"
    recipe.write_text(f"name = 'r'\nmodel = '{mlp.name}'\n{part}")
    result = qgraph("run", recipe, "-o", out)
    assert result.code in (2, 3) and said in result.err
    assert not out.exists() or not visible(out)


def test_what_says_how_pictures_become_inputs_goes_into_the_run(
    qgraph: Command, recipe: Path, out: Path
) -> None:
    (recipe.parent / "preprocessor_config.json").write_text("{}")
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    assert (out / "preprocessor_config.json").read_text() == "{}"


def test_a_profile_called_like_the_float_model_is_refused(
    qgraph: Command, recipe: Path, out: Path
) -> None:
    write_recipe(recipe.parent, "[profile]\ncuts = { model = 0.5 }\n")
    result = qgraph("run", recipe, "-o", out)
    assert result.code == 2 and "'model'" in result.err


def test_a_run_in_a_folder_where_one_is_at_work_names_its_process(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    before = times(finished)
    with locked(finished):
        result = qgraph("run", recipe, "-o", finished)
    assert result.code == 4
    assert f"process {os.getpid()}" in result.err
    assert changed(finished, before) == set()


def test_a_lock_left_by_a_dead_process_does_not_block(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    (finished / ".qgraph.lock").write_text("4194305")
    assert qgraph("run", recipe, "-o", finished).code == 0


def test_a_lock_that_is_a_pipe_is_refused_at_once(qgraph: Command, recipe: Path, out: Path) -> None:
    out.mkdir()
    os.mkfifo(out / ".qgraph.lock")
    result = qgraph("run", recipe, "-o", out)
    assert result.code == 4 and "expected a lock" in result.err


def test_a_lock_that_is_a_link_is_refused_and_its_target_left_alone(
    qgraph: Command, recipe: Path, out: Path, tmp_path: Path
) -> None:
    out.mkdir()
    target = tmp_path / "precious"
    target.write_text("as it was")
    (out / ".qgraph.lock").symlink_to(target)
    assert qgraph("run", recipe, "-o", out).code == 4
    assert target.read_text() == "as it was"


def without_timings(folder: Path) -> dict[str, Any]:
    """Return what must be equal in equal runs: files, less `run` blocks latency and memory."""
    found: dict[str, Any] = {}
    for path in folder.glob("*.onnx"):
        found[path.name] = path.read_bytes()
    for name in ("ranges", "sensitivity", "profiles", "evaluation"):
        content = json.loads((folder / f"{name}.json").read_text())
        content.pop("run", None)
        for variant in content.get("variants", []):
            del variant["latency_ms"]
            # absent where the process that weighs a model could not: a full machine may end it
            variant.pop("memory_bytes", None)
        found[name] = content
    return found


def test_two_runs_give_the_same_bytes_but_for_timings(
    qgraph: Command, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    assert qgraph("run", recipe, "-o", tmp_path / "again", "--quiet").code == 0
    assert without_timings(tmp_path / "again") == without_timings(finished)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_any_instant_goes_on_to_the_same_result(
    qgraph: Command, recipe: Path, finished: Path, tmp_path: Path, seed: int
) -> None:
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "qgraph", "run", str(recipe), "-o", str(killed), "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while not killed.exists() and run.poll() is None:
            time.sleep(0.002)
        # From the lock on; a whole run takes about two seconds.
        time.sleep(random.Random(seed).uniform(0, 1.2))
        run.kill()
    assert wait_and_finish(qgraph, recipe, killed) == 0
    assert visible(killed) == CHAIN
    assert without_timings(killed) == without_timings(finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_75_and_goes_on_to_the_same_result(
    qgraph: Command, mlp: Path, make_data: Callable[..., Path], tmp_path: Path, number: int
) -> None:
    make_data(tmp_path / "data.npz", samples=3000)
    recipe, stopped = write_recipe(tmp_path, samples=3000), tmp_path / "stopped"
    command = [sys.executable, "-m", "qgraph", "run", str(recipe), "-o", str(stopped)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        # Once the record, not only the file, is there, the stage counts as done.
        while not recorded(stopped, "ranges"):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(number)  # while it scores
        _, err = run.communicate(timeout=60)
    assert run.returncode == 75 and "The same command continues" in err
    assert not (stopped / "evaluation.json").exists()
    ranges = (stopped / "ranges.json").stat().st_mtime_ns
    assert wait_and_finish(qgraph, recipe, stopped) == 0
    assert (stopped / "ranges.json").stat().st_mtime_ns == ranges
    assert wait_and_finish(qgraph, recipe, tmp_path / "straight") == 0
    assert without_timings(stopped) == without_timings(tmp_path / "straight")


def test_a_profile_no_longer_asked_for_goes_with_its_model(
    qgraph: Command, recipe: Path, finished: Path
) -> None:
    (finished / "notes.txt").write_text("the user's own")
    write_recipe(recipe.parent, "[profile]\ncuts = { A = 0.15 }\n")
    assert qgraph("run", recipe, "-o", finished).code == 0
    assert visible(finished) == (CHAIN - {"B.onnx", "C.onnx", "D.onnx"}) | {"notes.txt"}


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_a_tampered_record_removes_nothing_outside_the_run_folder(
    qgraph: Command, recipe: Path, finished: Path, kind: str
) -> None:
    precious = finished.parent / "precious"
    name = "../precious" if kind == "relative" else str(precious)
    precious.write_text("as it was")
    record = json.loads((finished / "run.json").read_text())
    record["stages"][-1]["outputs"][name] = "0" * 64
    (finished / "run.json").write_text(json.dumps(record))
    assert qgraph("run", recipe, "-o", finished).code == 0
    assert precious.read_text() == "as it was"


def test_json_prints_the_evaluation(qgraph: Command, recipe: Path, finished: Path) -> None:
    result = qgraph("run", recipe, "-o", finished, "--json")
    assert result.json == json.loads((finished / "evaluation.json").read_text())


def recorded(folder: Path, stage: str) -> bool:
    path = folder / "run.json"
    return path.exists() and any(
        item["name"] == stage for item in json.loads(path.read_text())["stages"]
    )


def wait_and_finish(qgraph: Command, recipe: Path, folder: Path) -> int:
    """Run again; the kernel may take a moment to end the killed run's child and free its lock."""
    for _ in range(600):
        code: int = qgraph("run", recipe, "-o", folder, "--quiet").code
        if code != 4:
            return code
        time.sleep(0.1)
    return 4


def test_external_weights_of_the_run_model_are_made_again_when_damaged(
    qgraph: Command, recipe: Path, mlp: Path, out: Path
) -> None:
    # Weights above 64 MiB go to a data file beside the model.
    model = onnx.load(mlp)
    big = np.random.default_rng(0).standard_normal((16, 1 << 20)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(big, "big"))
    model.graph.node.add(op_type="MatMul", name="wide", input=["h", "big"], output=["wide"])
    model.graph.node.add(op_type="ReduceSum", input=["wide"], output=["z"], name="sum")
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    onnx.save(model, mlp)
    write_recipe(recipe.parent, "exclude = ['wide']\n[profile]\ncuts = { D = 1.0 }\n", samples=1)
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    (weights,) = out.glob("model-*.data")
    content = weights.read_bytes()
    weights.write_bytes(b"\1" * len(content))
    assert qgraph("run", recipe, "-o", out, "--quiet").code == 0
    assert weights.read_bytes() == content

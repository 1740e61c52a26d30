"""`--engine inc` and `--backend inc` as users run them: kill -9, Ctrl-C, exit codes, names."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

LAYERS = 6
CHAIN = "".join(f"[l{i}] h{i + 1} = MatMul(h{i}, w{i}) " for i in range(LAYERS))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Linears large enough that INC needs a good part of a second for each model it makes."""
    text = f"chain (float[batch, 256] h0) => (float[batch, 256] h{LAYERS}) {{ {CHAIN} }}"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>{text}')
    generator = np.random.default_rng(1)
    for index in range(LAYERS):
        weight = (generator.standard_normal((256, 256)) / 16).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"w{index}"))
    onnx.save(model, tmp_path / "chain.onnx")
    np.savez(tmp_path / "x.npz", h0=generator.standard_normal((2, 256)).astype(np.float32))
    return tmp_path / "chain.onnx"


def start(model: Path, output: Path) -> subprocess.Popen[str]:
    data = model.with_name("x.npz")
    arguments = ["sensitivity", model, "--engine", "inc", "--data", data, "-o", output, "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-m", "qgraph", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(running: subprocess.Popen[str]) -> int:
    """Read what it prints to the end; return its exit code."""
    _, err = running.communicate(timeout=60)
    assert "Traceback" not in err
    return running.returncode


def wait_for_units(journal: Path, count: int, running: subprocess.Popen[str]) -> None:
    """Wait until about `count` units are in the write-ahead log of a journal."""
    log = journal.with_name(f"{journal.name}-wal")
    deadline = time.monotonic() + 60
    # each commit appends at least one page of 4096 bytes; making the tables takes six
    while not log.exists() or log.stat().st_size < 4096 * (6 + 2 * count):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def rows(journal: Path) -> list[str]:
    with sqlite3.connect(journal) as connection:
        found = [key for (key,) in connection.execute("SELECT key FROM entries ORDER BY number")]
    connection.close()
    return found


def without_run(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    del content["run"]
    return content


def test_after_a_kill_at_any_moment_the_next_run_goes_on_and_ends_in_the_same_file(
    chain: Path, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight.json", tmp_path / "killed.json"
    assert finish(start(chain, straight)) == 0
    journal = tmp_path / "killed.json.journal"
    done: list[str] = []
    for count in (1, 4):
        running = start(chain, killed)
        wait_for_units(journal, count, running)
        # the parent; the processes that work for it end with it
        running.send_signal(signal.SIGKILL)
        running.communicate()
        time.sleep(0.5)
        found = rows(journal)
        # nothing that was recorded is lost or recorded again
        assert found[: len(done)] == done
        assert len(set(found)) == len(found)
        done = found
    assert finish(start(chain, killed)) == 0
    assert without_run(killed) == without_run(straight)
    assert not journal.exists()


def test_ctrl_c_exits_75_leaves_a_partial_file_and_the_next_run_goes_on(
    chain: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.json"
    running = start(chain, output)
    wait_for_units(tmp_path / "report.json.journal", 3, running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 75, err
    assert "Traceback" not in err
    report = json.loads(output.read_text())
    assert report["run"]["complete"] is False
    assert len(report["nodes"]) + len(report["unscored"]) == LAYERS
    assert finish(start(chain, output)) == 0
    assert json.loads(output.read_text())["run"]["complete"] is True


@pytest.mark.parametrize(
    "options",
    [
        ["--engine", "inc", "--group", "fused"],
        ["--engine", "inc", "--ranges", "ranges.json"],
        ["--engine", "switch", "--max-nodes", "2"],
        ["--engine", "auto", "--confidence-batches", "2"],
        ["--engine", "wavefront", "--scheme", "inc-cpu"],
    ],
)
def test_an_option_that_an_engine_does_not_have_is_a_usage_error(
    qgraph: Callable[..., Any], mlp: Path, data: Path, options: list[str]
) -> None:
    result = qgraph("sensitivity", mlp, "--data", data, "--json", *options)
    assert result.code == 2
    assert "engine" in result.out
    assert not mlp.with_name("sensitivity.json").exists()


def test_incs_models_stand_beside_ours_in_an_evaluation(
    qgraph: Callable[..., Any], mlp: Path, data: Path, tmp_path: Path
) -> None:
    report, profiles = tmp_path / "sensitivity.json", tmp_path / "profiles.json"
    common = ("--data", data, "--quiet")
    assert qgraph("sensitivity", mlp, *common, "-o", report).code == 0
    cuts = ("--cut", "A=0.5", "--cut", "D=1")
    assert qgraph("profile", report, *cuts, "-o", profiles).code == 0
    quantize = ("quantize", mlp, "--profiles", profiles, *common, "-o", tmp_path)
    assert qgraph(*quantize).code == 0
    made = qgraph(*quantize, "--backend", "inc", "--json").json["models"]
    assert [(item["profile"], item["quantized"]) for item in made] == [("A", 2), ("D", 4)]
    assert all(item["backend"] == "inc" and "untouched" not in item for item in made)
    names = ("A", "D", "A-inc", "D-inc")
    models = [tmp_path / f"{name}.onnx" for name in names]
    result = qgraph("evaluate", mlp, *models, *common, "--json", "-o", tmp_path / "e.json")
    found = {item["name"]: item for item in result.json["variants"]}
    assert set(found) == {"float", *names}
    assert {name: found[name]["backend"] for name in names} == {
        "A": "qgraph", "D": "qgraph", "A-inc": "inc", "D-inc": "inc",
    }  # fmt: skip
    assert found["D-inc"]["int8_nodes"] == 4
    kept = {node.name for node in onnx.load(mlp).graph.node if node.name}
    assert kept <= {node.name for node in onnx.load(tmp_path / "D-inc.onnx").graph.node}


def test_profiles_of_incs_scheme_are_emitted_by_inc_only(
    qgraph: Callable[..., Any], mlp: Path, data: Path, tmp_path: Path
) -> None:
    report, profiles = tmp_path / "sensitivity.json", tmp_path / "profiles.json"
    scheme = ("--scheme", "inc-cpu", "--engine", "switch")
    assert qgraph("sensitivity", mlp, "--data", data, *scheme, "-o", report).code == 0
    assert qgraph("profile", report, "--cut", "D=1", "-o", profiles).code == 0
    quantize = ("quantize", mlp, "--profiles", profiles, "--data", data, "-o", tmp_path)
    refused = qgraph(*quantize)
    assert refused.code == 2
    assert "--backend inc" in refused.err
    assert qgraph(*quantize, "--backend", "inc").code == 0
    refused = qgraph(*quantize[:-2], "--backend", "inc", "--provider", "cuda", "-o", tmp_path)
    assert refused.code == 2


def test_a_decoder_with_a_cache_is_scored_on_its_logits_and_by_incs_mean(
    qgraph: Callable[..., Any], decoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report.json"
    result = qgraph("sensitivity", decoder, "--engine", "inc", "--quiet", "-o", output, "--json")
    assert result.code == 0, result.err
    report = result.json
    assert report["outputs"] == ["logits"]
    for node in report["nodes"]:
        # the cache tensors count in INC's mean and not in ours
        assert node["solo"]["inc"]["mse"] != pytest.approx(node["solo"]["mse"], rel=1e-3)
    assert {node["name"] for node in report["keep"]} >= {"scores", "context"}

"""What has no end is ended by the parent's side of the command, with exit code 5 and no output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

Command = Callable[..., Any]


def endless(path: Path) -> Path:
    """Write a model of a MatMul whose result goes through a Loop without count or condition."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", 1, [2, 4]),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", 1, [2, 4]),
        ],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "mm"),
        helper.make_node("Greater", ["count", "zero"], ["yes"]),
        helper.make_node("Loop", ["", "yes", "m"], ["y"], body=body),
    ]
    inputs = [
        helper.make_tensor_value_info("x", 1, [2, 4]),
        helper.make_tensor_value_info("count", 1, []),
    ]
    weights = [
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
        numpy_helper.from_array(np.array(-9, np.float32), "zero"),
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, [2, 4])], weights
    )
    opsets = [helper.make_opsetid("", 21)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    )
    return path


def test_a_loop_without_end_is_ended(
    shell: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = endless(tmp_path / "m.onnx")
    monkeypatch.setenv("QGRAPH_LIMIT_STEP_SECONDS", "0.5")
    found = shell(
        "sensitivity", model, "--samples", "1", "--quiet", "-o", tmp_path / "o" / "s.json"
    )
    assert found.code == 5, found.err
    assert "QGRAPH_LIMIT_STEP_SECONDS" in found.err
    assert "Traceback" not in found.err
    assert list(tmp_path.glob("o/*.json")) == []


def test_steps_that_end_in_time_do_not_add_up(
    shell: Command, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QGRAPH_LIMIT_STEP_SECONDS", "0.5")
    assert shell("sensitivity", mlp, "--samples", "64", "-o", tmp_path / "s.json").code == 0


def test_an_expression_without_end_is_ended(
    shell: Command, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(mlp)
    model.graph.node[0].name = "b" * 50 + "."
    onnx.save(model, tmp_path / "long.onnx")
    monkeypatch.setenv("QGRAPH_LIMIT_PATTERN_SECONDS", "0.2")
    arguments = ["--samples", "1", "-o", tmp_path / "s.json", "--exclude", "(b|bb)+$"]
    found = shell("sensitivity", "--fast", tmp_path / "long.onnx", *arguments)
    assert found.code == 5, found.err
    assert "takes too long" in found.err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "many", "inf"])
def test_a_limit_that_is_no_number_is_a_usage_error(
    shell: Command, mlp: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value not in ("0", "many"):  # the same check; two through a process are enough
        from qgraph._graph.errors import UsageError
        from qgraph._graph.limits import Limit

        monkeypatch.setenv("QGRAPH_LIMIT_NODES", value)
        with pytest.raises(UsageError, match="expected a number above 0"):
            Limit.NODES.get()
        return
    monkeypatch.setenv("QGRAPH_LIMIT_STEP_SECONDS", value)
    found = shell("lint", mlp)
    assert found.code == 2
    assert "expected a number above 0" in found.err


def test_a_sample_too_large_to_make_up_is_a_limit(
    qgraph: Command, mlp: Path, tmp_path: Path
) -> None:
    model = onnx.load(mlp)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 40
    onnx.save(model, tmp_path / "large.onnx")
    found = qgraph("sensitivity", tmp_path / "large.onnx", "-o", tmp_path / "s.json")
    assert found.code == 5
    assert "made-up sample" in found.err

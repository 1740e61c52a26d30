"""Nodes that ONNX's schemas rule out are refused by name, wherever in the model they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from qgraph._graph.errors import InputError
from qgraph._graph.io.models import read_model
from qgraph._graph.rules.qdq_graph import QdqGraph

Build = Callable[..., onnx.ModelProto]


def refused(model: onnx.ModelProto, folder: Path) -> str:
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        read_model(folder / "m.onnx")
    return str(caught.value)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("y = Conv(x)", "input size 1"),
        ("y = Relu()", "input size 0"),
        ("y = Relu(x, x)", "input size 2"),
        ('y = Conv(x, "")', "marked single but has an empty string"),
        ('y = Softmax <axis = "one"> (x)', "axis"),
        ("y = If(x)", "Required attribute"),
    ],
)
def test_a_node_that_no_runtime_can_run_is_named(
    build: Build, tmp_path: Path, node: str, said: str
) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    model.graph.node[0].CopyFrom(onnx.parser.parse_node(node))
    model.graph.node[0].name = "the culprit"
    message = refused(model, tmp_path)
    assert "'the culprit'" in message and said in message


def test_a_node_of_a_body_is_checked(build: Build, tmp_path: Path) -> None:
    model = build(
        "(bool c, float[1] x) => (float[1] y) { y = If(c) <"
        "then_branch = t () => (float[1] a) { a = Relu(x) },"
        "else_branch = e () => (float[1] b) { b = Relu(x, x) }> }"
    )
    assert "that makes b" in refused(model, tmp_path)


def test_a_node_of_a_function_is_checked_by_the_functions_opset(
    build: Build, tmp_path: Path
) -> None:
    model = build("(float[N] x) => (float[N] y) { y = own.F(x) }")
    model.opset_import.append(helper.make_opsetid("own", 1))
    axes = helper.make_node("Squeeze", ["a"], ["b"], axes=[0])  # an input from opset 13 on
    old, new = (helper.make_opsetid("", version) for version in (11, 21))
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [axes], [old]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read_model(tmp_path / "m.onnx")
    model.functions[0].opset_import[0].CopyFrom(new)
    model.functions[0].node[0].input.append("")
    model.functions[0].node[0].input.append("")
    assert "Squeeze" in refused(model, tmp_path)


def test_what_onnx_does_not_know_is_left_to_who_runs_it(build: Build, tmp_path: Path) -> None:
    """TensorRT's plugins stand in ONNX's own domain, and read attributes of their own."""
    model = build("(float[N] x) => (float[N] y) { y = Relu <plugin_version = 1> (x) }")
    model.graph.node.append(helper.make_node("EfficientNMS_TRT", ["y"], ["boxes"], classes=80))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert len(read_model(tmp_path / "m.onnx").graph.node) == 2


def test_a_body_reads_what_its_surroundings_make_and_nothing_else(
    build: Build, tmp_path: Path
) -> None:
    text = (
        "(bool c, float[1] x) => (float[1] y) {{ y = If(c) <"
        "then_branch = t () => (float[1] a) {{ a = Relu({}) }},"
        "else_branch = e () => (float[1] b) {{ b = Relu(x) }}> }}"
    )
    assert "'z', which nothing makes" in refused(build(text.format("z")), tmp_path)
    (tmp_path / "m.onnx").write_bytes(build(text.format("x")).SerializeToString())
    read_model(tmp_path / "m.onnx")


def test_a_cycle_is_refused_where_a_graph_is_linted(build: Build, tmp_path: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { a = Identity(b) b = Identity(a) y = Add(x, a) }")
    with pytest.raises(InputError, match="cycle"):
        QdqGraph(model, tmp_path)


def test_a_long_chain_of_reshapes_is_followed_to_its_constant(build: Build, tmp_path: Path) -> None:
    steps = " ".join(f"t{i + 1} = Identity(t{i})" for i in range(3000))
    text = f"(float[N] x) => (float[N] y) {{ {steps} y = Add(x, t3000) }}"
    graph = QdqGraph(build(text, t0=np.zeros(1, np.float32)), tmp_path)
    assert graph.is_constant("t3000") and not graph.is_constant("y")

"""Functions are counted as often as they are called, before anything writes them out."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.io.models import read_model
from qgraph._graph.limits import Limit

OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]


def function(name: str, *called: str) -> onnx.FunctionProto:
    """Return a function that calls others, one after another."""
    names = ["x", *(f"t{i}" for i in range(len(called) - 1)), "y"]
    nodes = [
        helper.make_node(item, [names[i]], [names[i + 1]], domain="" if item == "Relu" else "own")
        for i, item in enumerate(called)
    ]
    return helper.make_function("own", name, ["x"], ["y"], nodes, OPSETS)


def save(path: Path, called: str, *functions: onnx.FunctionProto, inside: bool = False) -> Path:
    """Write a model that calls a function once, `inside` the branches of an If."""
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in ("X", "Y"))
    node = helper.make_node(called, ["X"], ["Y"], "call", domain="own")
    if inside:
        branch = helper.make_graph(
            [helper.make_node(called, ["X"], ["B"], domain="own")], "b", [],
            [helper.make_tensor_value_info("B", 1, [2])],
        )  # fmt: skip
        condition = helper.make_node(
            "Constant", [], ["c"], value=helper.make_tensor("", 9, [], [1])
        )
        made = helper.make_node("If", ["c"], ["Y"], then_branch=branch, else_branch=branch)
        graph = helper.make_graph([condition, made], "g", [x], [y])
    else:
        graph = helper.make_graph([node], "g", [x], [y])
    model = helper.make_model(graph, functions=list(functions), opset_imports=OPSETS, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def tower(height: int, width: int) -> list[onnx.FunctionProto]:
    """Return functions that hold `width ** height` Relus, the topmost last."""
    floors = [function("F0", "Relu")]
    return floors + [function(f"F{i}", *[f"F{i - 1}"] * width) for i in range(1, height + 1)]


@pytest.mark.parametrize("inside", [False, True])
def test_a_tower_of_functions_is_a_limit(tmp_path: Path, inside: bool) -> None:  # noqa: FBT001
    path = save(tmp_path / "m.onnx", "F15", *reversed(tower(15, 3)), inside=inside)
    with pytest.raises(LimitError, match="nodes with its functions written out") as found:
        read_model(path)
    assert "QGRAPH_LIMIT_NODES" in found.value.hint


def test_the_count_is_what_inlining_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m.onnx", "F2", *tower(2, 3))
    # the call, three of F1, nine of F0, nine Relus
    monkeypatch.setenv(Limit.NODES.variable, "22")
    read_model(path)
    monkeypatch.setenv(Limit.NODES.variable, "21")
    with pytest.raises(LimitError, match="has 22 nodes"):
        read_model(path)


@pytest.mark.parametrize("calls", [[("A", "A")], [("A", "Relu", "B"), ("B", "C"), ("C", "A")]])
def test_a_function_that_calls_itself_is_refused(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    functions = [function(name, *called) for name, *called in calls]
    with pytest.raises(InputError, match="calls itself"):
        read_model(save(tmp_path / "m.onnx", "A", *functions))


def test_a_function_that_calls_itself_in_another_spelling_is_refused(tmp_path: Path) -> None:
    """`ai.onnx` is the domain ``, so what is called here is the function that calls."""
    path = save(tmp_path / "m.onnx", "A", function("A", "Relu"))
    model = onnx.load(path)
    nodes = [helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], nodes, OPSETS))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="'Relu' of the model calls itself"):
        prepare(path)

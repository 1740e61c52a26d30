from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgraph._graph.edit.names import ensure_names, fresh_name, module_path


def chain(names: list[str]) -> onnx.ModelProto:
    nodes = [
        onnx.helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=name)
        for i, name in enumerate(names)
    ]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))


def names_of(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node]


def test_an_unnamed_node_is_called_after_its_first_output() -> None:
    model = chain(["", "b"])
    ensure_names(model)
    assert names_of(model) == ["Relu:t1", "b"]


def test_a_second_node_of_a_name_is_numbered() -> None:
    model = chain(["a", "a", "a"])
    ensure_names(model)
    assert names_of(model) == ["a", "a#2", "a#3"]


def test_what_changed_is_told_with_the_old_name() -> None:
    assert ensure_names(chain(["", "a", "a"])) == {"Relu:t1": "", "a#2": "a"}


@pytest.mark.parametrize(
    "names", [["", "Relu:t1"], ["a", "a", "a#2"], ["a", "a#2", "a"], ["", "", "Relu:t2"]]
)
def test_a_name_that_was_unique_is_never_changed(names: list[str]) -> None:
    model = chain(names)
    unique = {i: name for i, name in enumerate(names) if name and names.count(name) == 1}
    ensure_names(model)
    assert {i: names_of(model)[i] for i in unique} == unique


@given(st.lists(st.sampled_from(["", "a", "a#2", "b", "Relu:t1", "Relu:t2"]), max_size=8))
@settings(max_examples=60)
def test_every_node_has_a_name_of_its_own(names: list[str]) -> None:
    model = chain(names)
    ensure_names(model)
    assert "" not in names_of(model) and len(set(names_of(model))) == len(names)


@given(st.lists(st.sampled_from(["", "a", "a#2"]), max_size=6))
@settings(max_examples=30)
def test_naming_again_changes_nothing(names: list[str]) -> None:
    model = chain(names)
    ensure_names(model)
    assert ensure_names(model) == {}


def test_a_fresh_name_is_the_wanted_one_where_it_is_free() -> None:
    assert fresh_name("x_scale", {"x"}) == "x_scale"


def test_a_fresh_name_steps_over_those_taken() -> None:
    assert fresh_name("x", {"x", "x#2"}) == "x#3"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/model/layers.0/mlp/MatMul", "model.layers.0.mlp"),
        ("/head/head.0/head.0.1/MatMul", "head.0.1"),
        ("/layers.1/layers.10/MatMul", "layers.1.layers.10"),
        ("MatMul", ""),
        ("/MatMul", ""),
    ],
)
def test_the_module_path_is_all_but_the_last_part(name: str, path: str) -> None:
    assert module_path(name) == path

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import UsageError
from qgraph._quantize.selection import Selection, select

Build = Callable[..., onnx.ModelProto]
NET = (
    "(float[4,4] x) => (float[4,4] y)"
    "{ [l0/fc] a = MatMul(x, w) [l0/attention] b = MatMul(a, a) [l1/left] c = MatMul(w, b)"
    " [l1/fc] d = MatMul(c, w) [head] y = MatMul(d, w) }"
)


def keep_head(model: onnx.ModelProto, node: QuantizableNode) -> str | None:
    return "the head" if node.name == "head" else None


@pytest.fixture
def model(build: Build) -> onnx.ModelProto:
    names = ["l0/fc", "l0/attention", "l1/left", "l1/fc", "head"]
    text = NET
    for name in names:
        text = text.replace(f"[{name}] ", "")
    model = build(text, w=np.eye(4, dtype=np.float32))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def candidates(selection: Selection) -> list[str]:
    return [node.name for node in selection.candidates]


def reasons(selection: Selection) -> dict[str, str]:
    return {keep.name: keep.reason for keep in selection.kept}


def test_nodes_with_a_constant_weight_are_candidates_in_graph_order(model: onnx.ModelProto) -> None:
    assert candidates(select(model)) == ["l0/fc", "l1/fc", "head"]


def test_every_other_matmul_is_kept_with_its_reason_in_graph_order(model: onnx.ModelProto) -> None:
    kept = reasons(select(model))
    assert list(kept) == ["l0/attention", "l1/left"]
    assert "two activations" in kept["l0/attention"] and "left" in kept["l1/left"]


def test_a_rule_keeps_a_node_and_says_why(model: onnx.ModelProto) -> None:
    selection = select(model, [keep_head])
    assert "head" not in candidates(selection) and reasons(selection)["head"] == "the head"


def test_an_included_node_is_a_candidate_though_a_rule_keeps_it(model: onnx.ModelProto) -> None:
    assert "head" in candidates(select(model, [keep_head], include=["^head$"]))


def test_a_product_of_activations_can_be_included(model: onnx.ModelProto) -> None:
    assert "l0/attention" in candidates(select(model, include=["attention"]))


@pytest.mark.parametrize(
    ("text", "attention"),
    [
        ("[it] s = MatMul(x, t) m = Mul(s, k) a = Add(m, x) y = Softmax(a)", True),
        ("[it] s = MatMul(x, t) c = Tanh(s) j = Concat<axis = 1>(c, x) y = Softmax(j)", True),
        ("[it] s = MatMul(x, t) g = GatherElements<axis = 1>(s, i) y = Softmax(g)", True),
        ("p = Softmax(x) v = Where(b, k, p) [it] y = MatMul(v, t)", True),
        ("e = Exp(x) h = Mul(e, t) [it] s = MatMul(h, x) y = Mul(s, x)", False),
        ("[it] s = MatMul(x, t) [fc] h = MatMul(s, w) y = Softmax(h)", False),
        ("p = Softmax(x) r = Add(p, x) [it] y = MatMul(r, t)", False),
    ],
    ids=[
        "scores",
        "capped, with a sink",
        "by position",
        "values",
        "a scan",
        "a classifier",
        "beside a residual",
    ],
)
def test_a_product_says_whether_it_is_attentions(
    build: Build, text: str, *, attention: bool
) -> None:
    constants = {"k": np.float32(0.5), "b": np.zeros(4, bool), "w": np.ones((4, 4), np.float32)}
    constants["i"] = np.zeros((4, 4), np.int64)
    used = {name: np.asarray(constants[name]) for name in re.findall(r"\b[kbwi]\b", text)}
    graph = build(f"(float[4,4] x) => (float y) {{ t = Transpose(x) {text} }}", **used)
    (keep,) = (keep for keep in select(graph).kept if keep.name == "it")
    assert ("(attention)" in keep.reason) is attention
    assert ("no attention" in keep.reason) is not attention


def test_a_product_of_doubles_is_kept_though_it_is_included(build: Build) -> None:
    text = "(double[4,4] x) => (double[4,4] y) { [qk] t = Transpose(x) [mm] y = MatMul(x, t) }"
    found = select(build(text), include=["mm"])
    assert not found.candidates
    assert [(keep.name, "DOUBLE" in keep.reason) for keep in found.kept] == [("mm", True)]


def test_an_excluded_node_is_kept_on_request(model: onnx.ModelProto) -> None:
    selection = select(model, exclude=["l1/"])
    assert candidates(selection) == ["l0/fc", "head"]
    assert reasons(selection)["l1/fc"] == "excluded by the user"


def test_exclusion_wins_over_inclusion(model: onnx.ModelProto) -> None:
    assert "head" not in candidates(select(model, include=["head"], exclude=["head"]))


def test_patterns_are_searched_anywhere_in_a_name(model: onnx.ModelProto) -> None:
    assert candidates(select(model, exclude=["fc"])) == ["head"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_a_usage_error(
    model: onnx.ModelProto, option: str
) -> None:
    with pytest.raises(UsageError, match=rf"--{option} 'gone' matches none of the 4") as caught:
        select(model, **{option: ["gone"]})  # type: ignore[arg-type]
    assert "l0/fc" in caught.value.hint


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_is_no_expression_is_a_usage_error(
    model: onnx.ModelProto, option: str
) -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        select(model, **{option: ["("]})  # type: ignore[arg-type]


def test_what_cannot_be_quantized_cannot_be_included(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match="matches none"):
        select(model, include=["left"])


def test_the_operator_of_every_node_is_known(model: onnx.ModelProto) -> None:
    assert select(model).op_types == dict.fromkeys(
        ["l0/fc", "l0/attention", "l1/left", "l1/fc", "head"], "MatMul"
    )

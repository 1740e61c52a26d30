"""Local functions in the place of their calls; onnxruntime says what both forms compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import computed
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.inline import inline_functions

IMPORTS = 'opset_import: ["" : 17, "own" : 1]'
LINEAR = f"""
<{IMPORTS}, domain: "own">
Linear (a, w) => (o) {{ [mm] t = MatMul(a, w)  [act] o = Relu(t) }}
"""
BLOCK = f"""
<{IMPORTS}, domain: "own">
Block (a, w) => (o) {{ [one] t = own.Linear(a, w)  [two] o = own.Linear(t, w) }}
"""
X = np.random.default_rng(0).standard_normal((2, 4), np.float32)
W = np.random.default_rng(1).standard_normal((4, 4), np.float32)


def model_of(graph: str, *functions: str, imports: str = IMPORTS) -> onnx.ModelProto:
    text = f"<ir_version: 8, {imports}> g (float[2,4] x) => (float[2,4] y) {{ {graph} }}"
    model = onnx.parser.parse_model(text + "".join(functions))
    model.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return model


@pytest.mark.parametrize(
    ("graph", "functions"),
    [
        ("[l] y = own.Linear(x, w)", [LINEAR]),
        ("[a] h = own.Block(x, w) [b] y = own.Block(h, w)", [LINEAR, BLOCK]),
        (
            "y = own.Scaled<s = 2.0>(x)",
            [
                f'<{IMPORTS}, domain: "own"> Scaled <s> (a) => (o)'
                "{ c = Constant<value_float: float = @s>() o = Mul(a, c) }"
            ],
        ),
        (
            "y = own.Scaled(x)",
            [
                f'<{IMPORTS}, domain: "own"> Scaled <s: float = 3.0> (a) => (o)'
                "{ c = Constant<value_float: float = @s>() o = Mul(a, c) }"
            ],
        ),
        (
            "s = ReduceSum<keepdims = 0>(x) z = Constant<value = float {0}>() c = Greater(s, z)"
            "y = If (c) <then_branch = t () => (float[2,4] o) { o = own.Linear(x, w) },"
            " else_branch = e () => (float[2,4] p) { p = own.Linear(x, w) }>",
            [LINEAR],
        ),
        (
            "y = own.Choose(x, w)",
            [
                f'<{IMPORTS}, domain: "own"> Choose (a, w) => (o)'
                "{ s = ReduceSum<keepdims = 0>(a) z = Constant<value = float {0}>()"
                " c = Less(s, z) o = If (c)"
                " <then_branch = t () => (u) { h = MatMul(a, w) u = Relu(h) },"
                " else_branch = e () => (v) { v = Abs(a) }> }"
            ],
        ),
    ],
)
def test_inlining_keeps_what_is_computed(graph: str, functions: list[str]) -> None:
    model = model_of(graph, *functions)
    before = computed(model, X)
    inline_functions(model)
    assert not model.functions
    assert np.array_equal(computed(model, X), before)
    onnx.checker.check_model(model)


def test_a_function_may_give_what_it_was_given() -> None:
    both = f'<{IMPORTS}, domain: "own"> Both (a) => (o, a) {{ o = Relu(a) }}'
    model = model_of("t, u = own.Both(x) y = Sub(t, u)", both)
    # onnxruntime takes no such function
    (before,) = ReferenceEvaluator(model).run(None, {"x": X})
    inline_functions(model)
    assert np.array_equal(computed(model, X), before)


def test_nodes_are_called_after_the_calls_they_stand_in() -> None:
    model = model_of("[head] y = own.Block(x, w)", LINEAR, BLOCK)
    inline_functions(model)
    names = [node.name for node in model.graph.node]
    assert names == ["head/one/mm", "head/one/act", "head/two/mm", "head/two/act"]


def test_metadata_of_a_call_goes_to_what_it_computes() -> None:
    model = model_of("[l] y = own.Linear(x, w)", LINEAR)
    model.graph.node[0].metadata_props.add(key="namespace", value="model.head")
    inline_functions(model)
    found = [node.metadata_props[0].value for node in model.graph.node]
    assert found == ["model.head", "model.head"]


def test_a_function_of_an_opset_in_which_its_operators_are_the_same_is_inlined() -> None:
    older = LINEAR.replace('"" : 17', '"" : 14')
    model = model_of("y = own.Linear(x, w)", older)
    inline_functions(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Relu"]


def test_a_function_whose_operators_mean_something_else_stays() -> None:
    older = f'<{IMPORTS}, domain: "own"> Sum (a) => (o) {{ o = ReduceSum<axes = [1]>(a) }}'
    model = model_of("h = own.Sum(x) y = Add(x, h)", older.replace('"" : 17', '"" : 11'))
    inline_functions(model)
    assert [node.op_type for node in model.graph.node] == ["Sum", "Add"]
    assert len(model.functions) == 1

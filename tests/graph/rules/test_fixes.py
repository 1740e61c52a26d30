"""What `--fix` does follows from a finding's fields, not from its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from graphs import computed
from onnx import TensorProto, numpy_helper

from qgraph._graph.bodies import copied
from qgraph._graph.rules.finding import Finding, Severity, Target
from qgraph._graph.rules.fixes import fix
from qgraph._graph.rules.linting import lint
from qgraph._graph.rules.qdq_graph import QdqGraph

if TYPE_CHECKING:
    from tests.graph.rules.conftest import Draft
else:
    Draft = object


def mixed(draft: Draft) -> tuple[QdqGraph, Finding]:
    """Return a graph in which one scale has another type than the tensor, and what is found."""
    draft.tensors["w2_scale"] = draft.tensors["w2_scale"].astype(np.float16)
    graph = QdqGraph(draft.model(), Path())
    findings = [item for item in lint(graph, Target.TENSORRT_10, ()) if item.rule == "R6"]
    return graph, findings[0]


def test_a_finding_about_a_scales_type_names_the_type_that_is_wanted(good: Draft) -> None:
    _, finding = mixed(good)
    assert finding.fixable and finding.wanted == TensorProto.FLOAT


def test_a_scale_gets_the_type_that_is_wanted_whatever_the_reason_says(good: Draft) -> None:
    graph, finding = mixed(good)
    reworded = finding.model_copy(update={"reason": "said otherwise, in a FLOAT16 graph"})
    (done,) = fix(graph.model, [reworded], graph)
    node = next(node for node in graph.model.graph.node if node.name == finding.node)
    scale = QdqGraph(graph.model, Path()).constant(node.input[1])
    assert done.rule == "R6" and scale is not None and scale.dtype == np.float32


def test_a_scale_that_a_constant_node_spells_as_a_number_becomes_an_initializer(
    good: Draft,
) -> None:
    scale = good.tensors.pop("x_scale")
    good.add("Constant", "", "x_scale", value_float=float(scale))
    good.nodes.insert(0, good.nodes.pop())
    graph = QdqGraph(good.model(), Path())
    found = lint(graph, Target.TENSORRT_10, ())
    assert {item.rule for item in found if item.severity is not Severity.ADVICE} == {"R14"}
    fix(graph.model, found, graph)
    mended = QdqGraph(graph.model, Path())
    assert mended.constant("x_scale") == scale and "x_scale" in mended.initializers


FUNCTION = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
g (float[N,32] x) => (float[N,32] y) { [call] y = own.Linear(x, s, w) }
<domain: "own", opset_import: ["" : 21]>
Linear (x, s, w) => (y)
{ [q] a = QuantizeLinear<output_dtype = 3>(x, s) [d] b = DequantizeLinear(a, s)
  [wd] c = DequantizeLinear(w, s) [mm] y = MatMul(b, c) }"""


def test_what_a_function_holds_is_found_and_mended(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(FUNCTION)
    weight = np.arange(1024, dtype=np.int8).reshape(32, 32)
    for name, values in (("s", np.float32(0.02)), ("w", weight)):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    onnx.save(model, tmp_path / "m.onnx")
    graph = QdqGraph.read(tmp_path / "m.onnx")
    found = lint(graph, Target.TENSORRT_10, ())
    missing = [item.node for item in found if item.rule == "R3"]
    assert missing == ["call/q", "call/d", "call/wd"]
    changed = copied(graph.model)
    fix(changed, found, graph)
    mended = lint(QdqGraph(changed, Path()), Target.TENSORRT_10, ())
    assert {item.rule for item in mended} == {"R20"}
    x = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    before, after = (computed(item, x, optimized=False) for item in (model, changed))
    assert np.array_equal(before, after)


def test_what_stands_in_a_body_is_mended_there(good: Draft) -> None:
    """A Constant around the body, a zero point that is missing, and what nobody reads."""
    scale = good.tensors.pop("x_scale")
    good.node("w1_DQ").input.pop()
    good.add("QuantizeLinear", "gate h_scale h_zero", "idle")
    model = good.in_a_branch()
    constant = onnx.helper.make_node("Constant", [], ["x_scale"], value_float=float(scale))
    model.graph.node.insert(0, constant)
    graph = QdqGraph(model, Path())
    done = fix(graph.model, lint(graph, Target.TENSORRT_11), graph)
    assert {(item.rule, item.node) for item in done} == {
        ("R14", "if/then_branch/x_Q"),
        ("R3", "if/then_branch/w1_DQ"),
        ("R22", "if/then_branch/idle"),
    }
    onnx.checker.check_model(graph.model)
    assert lint(QdqGraph(graph.model, Path()), Target.TENSORRT_11) == []


IN_A_BODY = """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
g (float[1,64] x, bool c) => (float[n,m] y, float[1,64] z) <float s = {0.1}>
{ y = own.part(x)
  z = If(c) <then_branch = t () => (float[1,64] a)
               { q = QuantizeLinear<output_dtype = 3>(x, s) a = DequantizeLinear(q, s) },
             else_branch = e () => (float[1,64] b) { b = Neg(x) }> }
<domain: "own", opset_import: ["" : 17]>
part (a) => (c) { c = ReduceMean<axes = [1]>(a) }"""


def test_a_body_without_names_is_mended_beside_a_function_that_stays_a_call() -> None:
    graph = QdqGraph(onnx.parser.parse_model(IN_A_BODY), Path())
    changed = copied(graph.model)
    done = fix(changed, lint(graph, Target.TENSORRT_11), graph)
    assert [item.rule for item in done] == ["R3", "R3"]
    mended = lint(QdqGraph(changed, Path()), Target.TENSORRT_11)
    assert not any(item.rule == "R3" for item in mended)

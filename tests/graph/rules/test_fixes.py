"""What `--fix` does follows from a finding's fields, not from its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

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

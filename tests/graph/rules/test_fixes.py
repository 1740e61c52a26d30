"""What `--fix` does follows from a finding's fields, not from its sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from qgraph._graph.rules.finding import Finding, Target
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

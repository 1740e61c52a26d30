"""Modules as torch's two exporters write them, kept through preparing and quantizing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.names import scope_of
from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import UsageError
from qgraph._quantize.selection import select

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
LISTED, NAMESPACE = "pkg.torch.onnx.name_scopes", "namespace"
REWRITTEN = "pkg.onnxscript.rewriter.rule_name"
SPELLED = ": m.Net/layers.0: m.Block/layers.0.fc1: torch.nn.Linear/linear: aten.linear.default"


def node(name: str, **metadata: str) -> onnx.NodeProto:
    made = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name=name)
    for key, value in metadata.items():
        made.metadata_props.add(key=key, value=value)
    return made


@pytest.mark.parametrize(
    ("name", "metadata", "scope"),
    [
        ("node_1", {LISTED: "['', 'layers.0', 'layers.0.fc1', 'linear']"}, "layers.0.fc1"),
        ("node_1", {NAMESPACE: SPELLED}, "layers.0.fc1"),
        ("node_1", {LISTED: "['', 'head', 'linear']", NAMESPACE: SPELLED}, "head"),
        ("node_1", {NAMESPACE: "model/layers.3/mlp"}, "model.layers.3.mlp"),
        ("/layers.0/fc1/MatMul", {}, "layers.0.fc1"),
        ("/layers.0/fc1/MatMul", {LISTED: "not [python"}, "layers.0.fc1"),
        ("/layers.0/fc1/MatMul", {LISTED: "[1, 2]"}, "layers.0.fc1"),
        ("node_1", {LISTED: "['', 'linear']"}, ""),
    ],
)
def test_the_module_is_read_where_the_exporter_wrote_it(
    name: str, metadata: dict[str, str], scope: str
) -> None:
    assert scope_of(node(name, **metadata)) == scope


def test_a_convolution_that_swallowed_a_norm_is_still_in_its_own_module() -> None:
    metadata = {LISTED: "['', 'stem', 'stem.1', 'batch_norm']"}
    fused = node("node_Conv_5", **metadata, **{REWRITTEN: "FuseBatchNormIntoConv, Other"})
    fused.input[1] = "stem.0.weight"
    assert scope_of(fused) == "stem.0"
    fused.input[1] = "val_3"
    assert scope_of(fused) == "stem.1"


def test_a_weight_of_a_module_inside_says_which_of_several_products_a_node_is() -> None:
    """torch's attention multiplies by its `out_proj`'s weight itself, without calling that."""
    metadata = {LISTED: "['', 'layers.0', 'layers.0.self_attn', 'linear_1']"}
    for weight, scope in {
        "layers.0.self_attn.out_proj.weight": "layers.0.self_attn.out_proj",
        "layers.0.self_attn.in_proj_weight": "layers.0.self_attn",
        "val_16": "layers.0.self_attn",
        "embedding.weight": "layers.0.self_attn",  # shared by a head: elsewhere
    }.items():
        made = node("node_Gemm_379", **metadata)
        made.input[1] = weight
        assert scope_of(made) == scope


def dynamo_like(build: Build) -> onnx.ModelProto:
    text = """(float[N,4] x) => (float[N,4] y)
    { [node_MatMul_1] a = MatMul(x, w) r = Relu(a) [node_MatMul_3] y = MatMul(r, w) }"""
    weight: NDArray[np.float32] = np.ones((4, 4), np.float32)
    model = build(text, w=weight)
    for index, scope in ((0, "layers.0.fc1"), (2, "layers.0.fc2")):
        model.graph.node[index].metadata_props.add(key=LISTED, value=f"['', '{scope}', 'linear']")
    return model


def test_candidates_know_their_module(build: Build, prepared: Prepare) -> None:
    found, _ = quantizable_nodes(prepared(dynamo_like(build)).model)
    assert [item.scope for item in found] == ["layers.0.fc1", "layers.0.fc2"]


def test_patterns_match_modules_too(build: Build, prepared: Prepare) -> None:
    model = prepared(dynamo_like(build)).model
    assert [n.name for n in select(model, exclude=["fc1$"]).candidates] == ["node_MatMul_3"]
    assert [n.name for n in select(model, exclude=["MatMul_3"]).candidates] == ["node_MatMul_1"]
    with pytest.raises(UsageError) as caught:
        select(model, exclude=["fc3"])
    assert "node_MatMul_1 in layers.0.fc1" in caught.value.hint

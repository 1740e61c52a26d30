"""What stays of a model whose opset is kept, and what raising one must not change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from graphs import computed

from qgraph._graph.edit.opsets import OTHER_FLOATS, PER_AXIS
from qgraph._graph.edit.prepare import PreparedModel, at_least
from qgraph._graph.index import opset_of

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
PICTURE = np.random.default_rng(0).standard_normal((1, 4, 6, 6), np.float32)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("factor", [2.0, 1.5])
def test_resize_of_opset_10_goes_on_finding_its_pixels(
    build: Build, prepared: Prepare, mode: str, factor: float
) -> None:
    text = f'(float[1,4,6,6] x) => (float[1,4,H,W] y) {{ y = Resize<mode = "{mode}">(x, s) }}'
    model = build(text, opset=10, s=np.array([1, 1, factor, factor], np.float32))
    result = prepared(model)
    assert result.is_converted and opset_of(result.model) == PER_AXIS
    assert np.allclose(computed(result.model, PICTURE), computed(model, PICTURE), atol=1e-6)


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("groups", [2, 4])
def test_group_normalization_before_opset_21_keeps_a_scale_a_group(
    build: Build, prepared: Prepare, opset: int, groups: int
) -> None:
    text = (
        "(float[1,4,6,6] x) => (float[1,4,6,6] y)"
        f"{{ y = GroupNormalization<num_groups = {groups}>(x, s, b) }}"
    )
    scale = np.linspace(0.5, 2, groups, dtype=np.float32)
    model = build(text, opset=opset, s=scale, b=scale[::-1].copy())
    assert np.array_equal(computed(prepared(model).model, PICTURE), computed(model, PICTURE))


@pytest.mark.parametrize(("opset", "ir"), [(13, 7), (17, 8), (21, 10), (24, 12), (26, 13)])
def test_the_format_version_is_kept(build: Build, prepared: Prepare, opset: int, ir: int) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }", opset=opset)
    model.ir_version = ir
    assert prepared(model).model.ir_version == ir


def test_metadata_of_nodes_is_kept(build: Build, prepared: Prepare) -> None:
    model = build("(float[N] x) => (float[N] y) { h = Abs(x) y = Relu(h) }")
    for node, scope in zip(model.graph.node, ("one", "two"), strict=True):
        node.metadata_props.add(key="namespace", value=scope)
    nodes = prepared(model).model.graph.node
    assert [item.value for node in nodes for item in node.metadata_props] == ["one", "two"]


def test_half_precision_is_raised_to_where_its_q_dq_exists(build: Build, prepared: Prepare) -> None:
    model = build("(float16[N] x) => (float16[N] y) { y = Relu(x) }", opset=14)
    assert opset_of(prepared(model).model) == OTHER_FLOATS


def test_a_model_is_raised_once(build: Build, prepared: Prepare) -> None:
    found = prepared(build("(float[N] x) => (float[N] y) { [act] y = Relu(x) }", opset=14))
    raised = at_least(found, OTHER_FLOATS)
    assert raised.is_converted and raised.source_opset == 14
    assert [node.name for node in raised.model.graph.node] == ["act"]
    assert at_least(raised, OTHER_FLOATS) is raised


@pytest.mark.parametrize("text", ["n = RandomNormal<shape = [4]>()", "n = RandomUniformLike(w)"])
def test_what_is_drawn_is_not_folded_into_a_constant(
    build: Build, prepared: Prepare, text: str
) -> None:
    model = build(
        f"(float[4] x) => (float[4] y) {{ {text} y = Add(x, n) }}", w=np.ones(4, np.float32)
    )
    assert [node.op_type for node in prepared(model).model.graph.node][-1] == "Add"
    assert len(prepared(model).model.graph.node) == 2

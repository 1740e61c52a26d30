"""What is rotated, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import observe_ranges
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.io.rescaling import hadamard
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.emit import emit
from qgraph._quantize.proof import prove
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.smooth.plan import SmoothingPlan, require_unchanged, smoothed

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Weight = Callable[..., NDArray[np.float32]]

GATED = """(float[N,24] x) => (float[N,4] y, float[N,5] other)
{ [gate] k = MatMul(x, w) [up] u = MatMul(x, v) s = Sigmoid(k) a = Mul(k, s) h = Mul(a, u)
  [down] y = MatMul(h, z) [beside] other = MatMul(h, t) }"""
FEEDS = [{"x": np.random.default_rng(7).standard_normal((16, 24)).astype(np.float32)}]
ATTENTION = """(float[1,S,8] x) => (float[1,S,6] y)
<int64[4] apart = {{0, 0, 2, 4}}, int64[3] flat = {{0, 0, 8}}>
{{ [v] v = MatMul(x, w) {between} s = Reshape({value}, apart) t = Transpose<perm=[0,2,1,3]>(s)
  q = MatMul(x, k) qs = Reshape(q, apart) qt = Transpose<perm=[0,2,1,3]>(qs)
  kt = Transpose<perm=[0,1,3,2]>(qt) a = MatMul(qt, kt) p = Softmax(a)
  o = MatMul(p, t) b = Transpose<perm=[0,2,1,3]>(o) h = Reshape(b, flat)
  [o_proj] y = MatMul(h, z) }}"""


@pytest.fixture
def gated(build: Build, prepared: Prepare, weight: Weight) -> PreparedModel:
    """Return a gated MLP; one channel of what `down` reads is 60 times as loud as the others."""
    up = weight(24, 16, seed=1)
    up[:, 3] *= 60
    return prepared(
        build(GATED, w=weight(24, 16), v=up, z=weight(16, 4, seed=2), t=weight(16, 5, seed=3))
    )


def candidates(model: PreparedModel, *without: str) -> list[QuantizableNode]:
    return [node for node in quantizable_nodes(model.model)[0] if node.name not in without]


def rotated(model: PreparedModel, block: int, *without: str, alpha: float = 0.0) -> PreparedModel:
    plan = SmoothingPlan(model, candidates(model, *without), FEEDS)
    made = plan.everywhere(alpha) if alpha else ()
    return smoothed(model, plan.rotated(made, block))


def outputs(model: onnx.ModelProto, feed: Feed) -> list[NDArray[np.float32]]:
    return list(ReferenceEvaluator(model).run(None, dict(feed)))


@pytest.mark.parametrize("size", [1, 2, 16, 128])
def test_a_hadamard_matrix_is_orthogonal_and_its_own_inverse(size: int) -> None:
    made = hadamard(size)
    assert np.allclose(np.abs(made), size**-0.5)
    assert np.allclose(made @ made, np.eye(size), atol=1e-6) and np.array_equal(made, made.T)


@pytest.mark.parametrize(("block", "alpha"), [(2, 0.0), (8, 0.0), (64, 0.0), (16, 0.7)])
def test_the_function_stays_the_same(gated: PreparedModel, block: int, alpha: float) -> None:
    after = rotated(gated, block, alpha=alpha)
    assert [n.name for n in after.model.graph.node] != [n.name for n in gated.model.graph.node]
    before, now = (outputs(item.model, FEEDS[0]) for item in (gated, after))
    for one, two in zip(before, now, strict=True):
        assert np.allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    require_unchanged(gated, after, FEEDS[0], Provider.CPU)
    kept = [keep.reason for keep in quantizable_nodes(after.model)[1]]
    assert kept == ["a rotation (--rotate) of what a quantized node reads"] * 2


def test_what_no_quantized_node_reads_stays_as_it_was(gated: PreparedModel) -> None:
    after = rotated(gated, 16, "beside").model.graph
    reads = {node.name: list(node.input) for node in after.node}
    assert reads["beside"] == ["h", "t"] and reads["down"][0] != "h"
    kept = next(item for item in gated.model.graph.initializer if item.name == "t")
    assert next(item for item in after.initializer if item.name == "t") == kept


def test_a_block_is_the_largest_power_of_two_that_divides_the_channels(
    gated: PreparedModel,
) -> None:
    plan = SmoothingPlan(gated, candidates(gated), FEEDS)
    blocks = {item.tensor: item.rotation for item in plan.rotated((), 128)}
    assert blocks == {"x": 8, "h": 16}
    wrong = plan.at(plan.points[1], 0.0, 16).model_copy(update={"rotation": 32})
    with pytest.raises(UsageError, match="cannot be smoothed"):
        smoothed(gated, [wrong])


def test_a_loud_channel_is_spread_and_the_error_falls(gated: PreparedModel) -> None:
    def error(model: PreparedModel) -> float:
        nodes = [node for node in candidates(model) if node.name == "down"]
        ranges = observe_ranges(model, [nodes[0].activations[0][1]], FEEDS, Provider.CPU)
        provenance = Provenance("test", Scheme(), model.id.sha256, "0")
        made = emit(model, nodes, ranges, provenance)
        prove(made, model.model, nodes)
        expected, found = (outputs(item, FEEDS[0])[0] for item in (gated.model, made))
        return float(((expected - found) ** 2).sum())

    assert error(rotated(gated, 16)) < error(gated)


def test_a_model_in_float16_may_read_tokens(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    text = """(int64[N] ids) => (float16[N,8] y)
    { t = Gather(e, ids) [a] k = MatMul(t, v) h = Sigmoid(k) [b] y = MatMul(h, w) }"""
    shapes = {"e": (9, 64), "v": (64, 64), "w": (64, 8)}
    half = {name: weight(*shape, seed=3).astype(np.float16) for name, shape in shapes.items()}
    before, feed = prepared(build(text, **half)), {"ids": np.arange(9)}
    plan = SmoothingPlan(before, candidates(before), [feed])
    require_unchanged(before, smoothed(before, plan.rotated((), 64)), feed, Provider.CPU)


@pytest.mark.parametrize(
    ("between", "value", "added"),
    [
        *(("", "v", 0), ("u = Add(v, c)", "u", 0), ("u = Relu(v)", "u", 3)),
        # exporters ask for the size of what they reshape
        ("u = Add(v, c) size = Shape(u)", "u", 0),
        ("u = Add(v, c) size = Shape(v)", "u", 0),
    ],
)
def test_values_of_attention_are_rotated_by_their_projection_where_nothing_bends_them(
    build: Build, prepared: Prepare, weight: Weight, between: str, value: str, added: int
) -> None:
    text = ATTENTION.format(between=between, value=value)
    if "size" in between:
        text = text.replace("y)", "y, int64[3] size)", 1)
    bias = {"c": weight(8, seed=4)} if "c)" in between else {}
    before = prepared(build(text, w=weight(8, 8), k=weight(8, 8), z=weight(8, 6), **bias))
    rows = [{"x": weight(1, 5, 8, seed=8)}]
    plan = SmoothingPlan(before, candidates(before), rows)
    (point,) = [point for point in plan.points if point.quantized == ("o_proj",)]
    after = smoothed(before, [plan.at(point, 0.5, 8)])
    assert len(after.model.graph.node) - len(before.model.graph.node) == added
    assert plan.at(point, 0.5, 8).rotation == (8 if added else 4)
    one, two = (outputs(item.model, rows[0])[0] for item in (before, after))
    assert np.allclose(one, two, atol=1e-5 * np.abs(one).max())


def test_weights_on_the_disk_are_rotated_when_they_are_read(
    build: Build, weight: Weight, tmp_path: Path
) -> None:
    text = "(float[N,256] x) => (float[N,192] y) { h = Tanh(x) [a] y = MatMul(h, w) }"
    model = build(text, w=weight(256, 192))
    for name, above in (("held.onnx", 1 << 30), ("disk.onnx", 0)):
        write_model(model, tmp_path / name, external_above=above)
    held, disk = prepare(tmp_path / "held.onnx"), prepare(tmp_path / "disk.onnx")
    plan = SmoothingPlan(held, candidates(held), [{"x": weight(4, 256, seed=2)}])
    made = plan.rotated(plan.everywhere(0.5), 64)
    one, two = (smoothed(item, made).model for item in (held, disk))
    assert len(two.SerializeToString()) < 100_000 < len(one.SerializeToString())
    written = tmp_path / "rotated.onnx"
    write_model(two, written, external_above=0)
    expected = {item.name: numpy_helper.to_array(item) for item in one.graph.initializer}
    for graph in (two.graph, read_model(written).graph):
        found = {item.name: array_of(item) for item in graph.initializer}
        assert np.array_equal(found["w"], expected["w"])

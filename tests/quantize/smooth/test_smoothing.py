"""What is smoothed, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import observe_ranges
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.widen import in_single
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.smooth.plan import (
    SmoothingPlan,
    require_unchanged,
    smoothed,
    smoothing_factors,
)
from qgraph._quantize.smooth.points import SmoothPoint, find_points

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Weight = Callable[..., NDArray[np.float32]]

RMS = """(float[N,8] x) => (float[N,6] y) <float[1] e = {0.001}, int64[1] last = {-1}>
{ s = Mul(x, x) m = ReduceMean(s, last) n = Add(m, e) r = Sqrt(n) d = Div(x, r)
  h = Mul(g, d) [a] p = MatMul(h, w) [b] q = MatMul(h, v) y = Mul(p, q) }"""
LAYER = """(float[N,8] x) => (float[N,6] y)
{ h = LayerNormalization(x, g, b) [a] y = MatMul(h, w) }"""
AFFINE = """(float[N,8] x) => (float[N,6] y)
{ t = Tanh(x) m = Mul(t, g) h = Add(m, b) [a] y = MatMul(h, w) }"""
GATED = """(float[N,8] x) => (float[N,4] y)
{ [gate] k = MatMul(x, w) [up] u = MatMul(x, v) s = Sigmoid(k) a = Mul(k, s) h = Mul(a, u)
  [down] y = MatMul(h, z) }"""
BARE = "(float[N,8] x) => (float[N,4] y) { h = Tanh(x) [a] y = MatMul(h, w) }"
RELU = """(float[N,8] x) => (float[N,4] y)
{ [a] p = Gemm<transB=1>(x, w, c) h = Relu(p) [b] y = Gemm(h, z) }"""
WHOLE = """(float[N,8] x) => (float[N,4] y)
{ [a] p = MatMul(x, w) i = Cast<to=6>(p) h = Cast<to=1>(i) [b] y = MatMul(h, z) }"""
SEEN = """(float[N,8] x) => (float[N,8] y)
{ h = LayerNormalization(x, g, b) [a] p = MatMul(h, w) y = Add(p, h) }"""
FEEDS = [{"x": np.random.default_rng(7).standard_normal((16, 8)).astype(np.float32)}]


def point_of(prepared: PreparedModel, node: str) -> SmoothPoint:
    points = find_points(prepared.model, quantizable_nodes(prepared.model)[0])
    return next(point for point in points if node in point.quantized)


def absorbed(prepared: PreparedModel, node: str) -> set[tuple[str, int]]:
    return {(operand.node, operand.index) for operand in point_of(prepared, node).absorbers}


def smooth_all(prepared: PreparedModel, alpha: float = 0.5) -> PreparedModel:
    plan = SmoothingPlan(prepared, quantizable_nodes(prepared.model)[0], FEEDS)
    return smoothed(prepared, plan.everywhere(alpha))


def outputs(model: onnx.ModelProto, feed: Feed = FEEDS[0]) -> list[NDArray[Any]]:
    return list(ReferenceEvaluator(model).run(None, dict(feed)))


@pytest.fixture
def vectors() -> dict[str, NDArray[np.float32]]:
    spread = np.array([1, 100, 1, 1, 0.1, 1, 30, 1], np.float32)
    return {"g": spread, "b": 0.1 * spread}


def test_a_norm_takes_the_factors_into_its_weight(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]]
) -> None:
    rms = prepared(build(RMS, g=vectors["g"], w=weight(8, 6), v=weight(8, 6, seed=1)))
    assert point_of(rms, "a").quantized == ("a", "b")
    assert absorbed(rms, "a") == {("Mul:h", 0)}
    layer = prepared(build(LAYER, **vectors, w=weight(8, 6)))
    assert absorbed(layer, "a") == {("LayerNormalization:h", 1), ("LayerNormalization:h", 2)}


def test_a_gated_product_is_absorbed_by_the_linear_not_by_the_gate(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    gated = prepared(build(GATED, w=weight(8, 6), v=weight(8, 6, seed=1), z=weight(6, 4)))
    assert absorbed(gated, "down") == {("up", 1)}


def test_a_relu_hands_factors_on_to_weight_and_bias(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    relu = prepared(build(RELU, w=weight(6, 8), c=weight(6), z=weight(6, 4)))
    assert absorbed(relu, "b") == {("a", 1), ("a", 2)}


def test_where_nothing_absorbs_a_product_is_put_before_the_reader(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    bare = prepared(build(BARE, w=weight(8, 4)))
    assert absorbed(bare, "a") == set()
    made = smooth_all(bare).model
    assert [node.op_type for node in made.graph.node] == ["Tanh", "Mul", "MatMul"]


def test_a_tensor_that_others_read_is_not_rescaled_under_them(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]]
) -> None:
    seen = prepared(build(SEEN, **vectors, w=weight(8, 8)))
    assert absorbed(seen, "a") == set()


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (RMS, {"w": (8, 6), "v": (8, 6)}),
        (LAYER, {"w": (8, 6)}),
        (AFFINE, {"w": (8, 6)}),
        (GATED, {"w": (8, 6), "v": (8, 6), "z": (6, 4)}),
        (BARE, {"w": (8, 4)}),
        (RELU, {"w": (6, 8), "c": (6,), "z": (6, 4)}),
        (WHOLE, {"w": (8, 6), "z": (6, 4)}),
        (SEEN, {"w": (8, 8)}),
    ],
)
def test_the_function_stays_the_same(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]],
    text: str, shapes: dict[str, Sequence[int]],
) -> None:  # fmt: skip
    used = {name: vectors[name] for name in vectors if f"{name}," in text or f"{name})" in text}
    before = prepared(build(text, **used, **{n: weight(*s) for n, s in shapes.items()}))
    after = smooth_all(before)
    for one, two in zip(outputs(before.model), outputs(after.model), strict=True):
        # float32 rounds each rescaled weight once
        assert np.allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(one).max())
    require_unchanged(before, after, FEEDS[0], Provider.CPU)


def test_outlier_channels_come_down_and_weights_take_them(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]]
) -> None:
    before = prepared(build(LAYER, **vectors, w=weight(8, 6)))
    after = smooth_all(before)
    peaks = [observe_ranges(item, ["h"], FEEDS)["h"].rmax for item in (before, after)]
    assert peaks[1] < peaks[0] / 5


def test_a_weight_that_others_share_is_copied(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]]
) -> None:
    text = """(float[N,8] x) => (float[N,6] y)
    { h = LayerNormalization(x, g, b) [a] p = MatMul(h, w) [tied] q = MatMul(x, w)
      y = Add(p, q) }"""
    before = prepared(build(text, **vectors, w=weight(8, 6)))
    alone = [node for node in quantizable_nodes(before.model)[0] if node.name == "a"]
    plan = SmoothingPlan(before, alone, FEEDS)
    after = smoothed(before, plan.everywhere(0.5))
    tensors = {item.name: numpy_helper.to_array(item) for item in after.model.graph.initializer}
    assert np.array_equal(tensors["w"], weight(8, 6))
    reads = {node.name: node.input[1] for node in after.model.graph.node}
    assert reads["tied"] == "w" and reads["a"] != "w"
    require_unchanged(before, after, FEEDS[0], Provider.CPU)


def test_a_float_linear_beside_gets_the_factors_too(
    build: Build, prepared: Prepare, weight: Weight, vectors: dict[str, NDArray[np.float32]]
) -> None:
    before = prepared(build(RMS, g=vectors["g"], w=weight(8, 6), v=weight(8, 6, seed=1)))
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0][:1], FEEDS)
    assert plan.points[0].quantized == ("a",)
    assert {operand.node for operand in plan.points[0].readers} == {"a", "b"}
    require_unchanged(before, smoothed(before, plan.everywhere(0.7)), FEEDS[0], Provider.CPU)


def test_layers_that_share_a_weight_on_the_disk_have_it_changed_each_its_own_way(
    build: Build, weight: Weight, tmp_path: Path
) -> None:
    text = """(float[N,256] x) => (float[N,256] y)
    { h = LayerNormalization(x, g) [one] u = MatMul(h, w) r = Relu(u)
      i = LayerNormalization(r, b) [two] y = MatMul(i, w) }"""
    gains = {"g": np.linspace(0.1, 9, 256, dtype=np.float32), "b": np.ones(256, np.float32)}
    model = build(text, w=weight(256, 256), **gains)
    write_model(model, tmp_path / "m.onnx", external_above=0)
    before, feed = prepare(tmp_path / "m.onnx"), {"x": weight(4, 256, seed=2)}
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], [feed])
    after = smoothed(before, plan.everywhere(0.5))
    require_unchanged(before, after, feed, Provider.CPU)
    read = {name for node in after.model.graph.node for name in node.input}
    assert {tensor.name for tensor in after.model.graph.initializer} <= read


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_on_the_disk_stay_there_and_are_rescaled_when_read(
    build: Build, weight: Weight, tmp_path: Path, dtype: type[np.generic]
) -> None:
    kind = "float" if dtype is np.float32 else "float16"
    text = f"""({kind}[N,256] x) => ({kind}[N,256] y)
    {{ h = LayerNormalization(x, g, b) [up] u = MatMul(h, w)
      r = Relu(u) [down] y = MatMul(r, v) }}"""
    gain = np.linspace(0.1, 9, 256)
    arrays = {"g": gain, "b": gain, "w": weight(256, 256), "v": weight(256, 256, seed=1)}
    model = build(text, **{name: array.astype(dtype) for name, array in arrays.items()})
    for name, above in (("held.onnx", 1 << 30), ("disk.onnx", 0)):
        write_model(model, tmp_path / name, external_above=above)
    held, disk = prepare(tmp_path / "held.onnx"), prepare(tmp_path / "disk.onnx")
    feeds = [{"x": weight(4, 256, seed=2).astype(dtype)}]
    plan = SmoothingPlan(held, quantizable_nodes(held.model)[0], feeds)
    one, two = (smoothed(item, plan.everywhere(0.5)).model for item in (held, disk))
    assert len(two.SerializeToString()) < 100_000 < len(one.SerializeToString())
    written = tmp_path / "smoothed.onnx"
    write_model(two, written, external_above=0)
    wide = {t.name: t for t in in_single(replace(disk, model=two)).model.graph.initializer}
    seen = {tensor.name: tensor for tensor in two.graph.initializer}
    read = {tensor.name: tensor for tensor in read_model(written).graph.initializer}
    for tensor in one.graph.initializer:
        expected = numpy_helper.to_array(tensor)
        for found in (seen, read):
            assert np.array_equal(array_of(found[tensor.name]), expected)
        assert np.array_equal(array_of(wide[tensor.name]), expected.astype(np.float32))


def test_factors_follow_the_paper_up_to_a_common_one() -> None:
    peaks, weights = np.array([1, 4, 16], np.float32), np.array([1, 1, 4], np.float32)
    found = smoothing_factors(peaks, weights, 0.5)
    expected = np.sqrt(peaks / weights)
    # four digits are kept
    assert found / found[0] == pytest.approx(expected / expected[0], rel=1e-3)
    assert np.prod(found) == pytest.approx(1, rel=1e-3)


def test_a_dead_channel_is_left_alone() -> None:
    found = smoothing_factors(np.array([0, 5, 5], np.float32), np.array([1, 0, 2], np.float32), 0.5)
    assert found[:2].tolist() == [1, 1]


def test_smoothing_of_another_model_is_refused(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    bare = prepared(build(BARE, w=weight(8, 4)))
    wrong = SmoothedTensor(tensor="h", alpha=0.5, quantized=("a",), factors=(1.0, 2.0))
    with pytest.raises(UsageError, match="'h' cannot be smoothed"):
        smoothed(bare, [wrong])


CONVS = """(float[1,8,6,6] x) => (float[1,4,4,4] y)
{ [a] p = Conv<pads=[1,1,1,1]>(x, w, c) r = LeakyRelu(p)
  h = MaxPool<kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1]>(r) [b] y = Conv(h, z) }"""
DEPTHWISE = """(float[1,8,6,6] x) => (float[1,4,6,6] y)
{ [a] p = Conv(x, w) r = Relu(p) [depth] d = Conv<group=6, pads=[1,1,1,1]>(r, k) e = Relu(d)
  [b] y = Conv(e, z) }"""
SILU = """(float[1,8,6,6] x) => (float[1,4,6,6] y)
{ [a] p = Conv(x, w) s = Sigmoid(p) h = Mul(p, s) [b] y = Conv(h, z) }"""
SHARED = """(float[1,8,6,6] x) => (float[1,6,6,6] y)
{ [a] p = Conv(x, w) h = Relu(p) [b] q = Conv(h, z) y = Add(h, q) }"""
PICTURE = np.random.default_rng(7).standard_normal((1, 8, 6, 6)).astype(np.float32)
ROWS = [{"x": np.random.default_rng(8).standard_normal((1, 5, 8)).astype(np.float32)}]
MAPS: dict[str, tuple[str, dict[str, tuple[int, ...]], str, set[tuple[str, int]]]] = {
    "pooled": (CONVS, {"w": (6, 8, 3, 3), "c": (6,), "z": (4, 6, 3, 3)}, "b", {("a", 1), ("a", 2)}),
    "to depthwise": (
        DEPTHWISE, {"w": (6, 8, 1, 1), "k": (6, 1, 3, 3), "z": (4, 6, 1, 1)}, "depth", {("a", 1)}
    ),
    "from depthwise": (
        DEPTHWISE, {"w": (6, 8, 1, 1), "k": (6, 1, 3, 3), "z": (4, 6, 1, 1)}, "b", {("depth", 1)}
    ),
    "behind SiLU": (SILU, {"w": (6, 8, 1, 1), "z": (4, 6, 1, 1)}, "b", set()),
    "read beside": (SHARED, {"w": (6, 8, 1, 1), "z": (6, 6, 1, 1)}, "b", set()),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shapes", "reader", "absorbs"), MAPS.values(), ids=MAPS.keys())
def test_a_convolution_before_absorbs_what_a_convolution_reads(
    build: Build, prepared: Prepare, weight: Weight,
    text: str, shapes: dict[str, tuple[int, ...]], reader: str, absorbs: set[tuple[str, int]],
) -> None:  # fmt: skip
    tensors = {name: weight(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    tensors["w"][2] *= 10  # so that factors are far from 1
    before = prepared(build(text, **tensors))
    assert absorbed(before, reader) == absorbs
    feeds = [{"x": PICTURE}]
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], feeds)
    one, two = (
        outputs(model.model, feeds[0])[0]
        for model in (before, smoothed(before, [plan.at(point, 0.5) for point in plan.points]))
    )
    assert np.allclose(one, two, rtol=1e-5, atol=1e-5 * np.abs(one).max())


def test_one_strength_for_all_puts_no_product_before_a_convolution(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    before = prepared(build(SILU, w=weight(6, 8, 1, 1), z=weight(4, 6, 1, 1)))
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], [{"x": PICTURE}])
    assert [point.quantized for point in plan.points] == [("b",)]  # "a" reads the picture
    assert plan.everywhere(0.5) == ()


def test_a_pooled_outlier_comes_down(build: Build, prepared: Prepare, weight: Weight) -> None:
    text, shapes, _, _ = MAPS["pooled"]
    tensors = {name: weight(*shape) for name, shape in shapes.items()}
    tensors["w"][2] *= 50
    tensors["z"][:, 2] /= 50
    before = prepared(build(text, **tensors))
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], [{"x": PICTURE}])
    after = smoothed(before, plan.everywhere(0.5))
    peaks = [observe_ranges(item, ["h"], [{"x": PICTURE}])["h"].rmax for item in (before, after)]
    assert peaks[1] < peaks[0] / 3


ATTENTION = """(float[1,S,8] x) => (float[1,S,6] y)
<int64[4] apart = {{0, 0, {split}, 2}}, int64[4] query = {{0, 0, 4, 2}}, int64[1] two = {{2}},
 int64[5] many = {{1, 1, {group}, 1, 1}}, int64[4] again = {{0, 4, -1, 2}},
 int64[3] flat = {{0, 0, 8}}>
{{ [v] v = MatMul(x, w) u = Add(v, c) s = Reshape(u, apart) t = Transpose<perm=[0,2,1,3]>(s)
  {repeat}
  q = MatMul(x, k) qs = Reshape(q, query) qt = Transpose<perm=[0,2,1,3]>(qs)
  kt = Transpose<perm=[0,1,3,2]>(qt) a = MatMul(qt, kt) p = Softmax(a)
  o = MatMul(p, {values}) b = Transpose<perm=[0,2,1,3]>(o) h = Reshape(b, flat)
  [o_proj] y = MatMul(h, z) }}"""
REPEATED = "e = Unsqueeze(t, two) f = Expand(e, many) r = Reshape(f, again)"


JOINED = """(float[2,3,8] x, float[2,4,3,3] p) => (float[2,5] y)
<int64[4] apart = {0, 0, 2, 4}, int64[1] two = {2}, int64[5] many = {1, 1, 2, 1, 1},
 int64[4] again = {0, 4, -1, 4}, int64[2] flat = {2, 48}>
{ [v] v = MatMul(x, w) s = Reshape(v, apart) t = Transpose<perm=[0,2,1,3]>(s)
  e = Unsqueeze(t, two) f = Expand(e, many) r = Reshape(f, again)
  o = MatMul(p, r) b = Transpose<perm=[0,2,1,3]>(o) h = Reshape(b, flat) [a] y = MatMul(h, z) }"""


def test_where_positions_are_joined_with_heads_no_projection_absorbs(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    before = prepared(build(JOINED, w=weight(8, 8), z=weight(48, 5)))
    assert absorbed(before, "a") == set()
    feed = {"x": weight(2, 3, 8), "p": weight(2, 4, 3, 3, seed=1)}
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], [feed])
    require_unchanged(before, smoothed(before, plan.everywhere(0.5)), feed, Provider.CPU)


@pytest.mark.parametrize("kv", [4, 2])
def test_the_projection_of_values_absorbs_one_factor_a_channel_of_its_heads(
    build: Build, prepared: Prepare, weight: Weight, kv: int
) -> None:
    # as exporters write them, with the number of heads left to be inferred or not
    repeat, values, split = ("", "t", 4) if kv == 4 else (REPEATED, "r", -1)
    text = ATTENTION.format(split=split, group=4 // kv, repeat=repeat, values=values)
    tensors = {"w": weight(8, 2 * kv), "c": weight(2 * kv), "k": weight(8, 8), "z": weight(8, 6)}
    tensors["w"][:, 3] *= 40
    before = prepared(build(text, **tensors))
    plan = SmoothingPlan(before, quantizable_nodes(before.model)[0], ROWS)
    (point,) = [point for point in plan.points if point.quantized == ("o_proj",)]
    assert {(item.node, item.index) for item in point.absorbers} == {("Add:u", 1), ("v", 1)}
    chosen = plan.at(point, 0.5)
    by_head = np.reshape(chosen.factors, (kv, 4 // kv, 2))
    assert np.array_equal(by_head, np.broadcast_to(by_head[:, :1], by_head.shape))
    after = smoothed(before, [chosen])
    assert len(after.model.graph.node) == len(before.model.graph.node)
    require_unchanged(before, after, ROWS[0], Provider.CPU)
    if kv == 2:
        apart = chosen.model_copy(update={"factors": tuple(np.arange(1.0, 9.0))})
        with pytest.raises(UsageError, match="cannot be smoothed"):
            smoothed(before, [apart])


def test_values_that_are_an_output_keep_their_channels(
    build: Build, prepared: Prepare, weight: Weight
) -> None:
    text = ATTENTION.format(split=4, group=1, repeat="", values="t")
    tensors = {"w": weight(8, 8), "c": weight(8), "k": weight(8, 8), "z": weight(8, 6)}
    model = build(text, **tensors)
    model.graph.output.add(name="t")
    seen = prepared(onnx.shape_inference.infer_shapes(model))
    assert absorbed(seen, "o_proj") == set()

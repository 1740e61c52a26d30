"""One session for every way to quantize, against sessions that were opened for one way each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import built, drawn

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array
from qgraph._quantize.learnt import Way
from qgraph._quantize.ranges import RangesRun
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.plan import SmoothingPlan
from qgraph._quantize.smooth.points import SmoothPoint, find_points
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.search.adjustable import Adjustable
from qgraph._sensitivity.search.asking import Search
from qgraph._sensitivity.search.halves import JudgedHalf
from qgraph._sensitivity.search.rig import Rig

NET = """<ir_version: 10, opset_import: ["" : 21]> net (float[N,32] x) => (float[N,24] y)
{ n = Mul(x, gamma) [first] h = MatMul(n, w) t = Tanh(h) [last] y = MatMul(t, v) }"""
SCORED = Scored(("y",), logits=False)
RUN = RangesRun(qgraph="0", provider="cpu", samples=8, data="x", synthetic=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(built(NET, **drawn({"w": (32, 16), "gamma": (32,), "v": (16, 24)})), path)
    return prepare(path)


@pytest.mark.parametrize("name", [SchemeName.INT8, SchemeName.FP8])
def test_each_way_gives_the_numbers_of_a_session_of_its_own(
    model: PreparedModel, name: SchemeName
) -> None:
    nodes, scheme = select(model.model).candidates, Scheme(name=name)
    points = {point.tensor: point for point in find_points(model.model, nodes)}
    feed = {"x": np.random.default_rng(1).standard_normal((40, 32)).astype(np.float32)}
    factors = np.geomspace(0.25, 4, 32).astype(np.float32)

    def way(largest: float, smoothed: Mapping[SmoothPoint, Array]) -> FakeQuantization:
        ranges = {name: Range(-largest, largest) for name in ("n", "t")}
        return quantization_in_place(GraphIndex(model.model), nodes, ranges, scheme, smoothed)

    ways = [way(3.0, {}), way(1.0, {}), way(2.0, {points["n"]: factors})]
    keys = [(node.weight.tensor, node.weight.axis) for node in nodes if node.weight is not None]
    everything = {point: np.ones(point.channels, np.float32) for point in points.values()}
    session = Adjustable(model, nodes, way(3.0, everything), keys, [SCORED], Provider.CPU)
    for made, rescaled in zip(ways, ([], [], keys), strict=True):
        own = node_switches(model, nodes, made, SCORED)
        for question in (frozenset({"first"}), frozenset({"last"}), frozenset({"first", "last"})):
            (expected,) = own.sums([question], [feed], lambda _share: None)[0]
            assert session.ask(0, feed, session.adjusted(made, rescaled), question) == [expected]
            assert expected.error > 0


ATTENTION = """<ir_version: 10, opset_import: ["" : 21]> net (float[1,S,8] x) => (float[1,S,6] y)
<int64[4] apart = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}>
{ [v] v = MatMul(x, w) s = Reshape(v, apart) t = Transpose<perm=[0,2,1,3]>(s)
  q = MatMul(x, k) qs = Reshape(q, apart) qt = Transpose<perm=[0,2,1,3]>(qs)
  kt = Transpose<perm=[0,1,3,2]>(qt) a = MatMul(qt, kt) p = Softmax(a)
  o = MatMul(p, t) b = Transpose<perm=[0,2,1,3]>(o) h = Reshape(b, flat)
  [o_proj] y = MatMul(h, z) }"""


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("rotated", [{"x"}, {"h"}, {"x", "h"}])
def test_what_is_rotated_gives_the_numbers_of_the_rotated_model(
    tmp_path: Path, rotated: set[str], alpha: float
) -> None:
    generator = np.random.default_rng(0)
    weights = drawn({"w": (8, 8), "k": (8, 8), "z": (8, 6)}, generator)
    for array in weights.values():
        array[:, 2] *= 9
    onnx.save(built(ATTENTION, **weights), tmp_path / "net.onnx")
    model = prepare(tmp_path / "net.onnx")
    feeds = [{"x": generator.standard_normal((1, 9, 8)).astype(np.float32)} for _ in range(8)]

    def nodes(of: PreparedModel) -> list[QuantizableNode]:
        return [node for node in quantizable_nodes(of.model)[0] if node.name in ("v", "o_proj")]

    scored = Scored(("y",), logits=False)
    search = Search(model, nodes, feeds, scored, Scheme(), RUN)
    rig = Rig(search, smooths=True)
    blocks = tuple((p, b) for p, b in rig.blocks.items() if p.tensor in rotated)
    assert {point.tensor for point, _ in blocks} == rotated
    strengths = tuple((point, alpha) for point in rig.learnt.points if alpha)
    part, way = rig.learnt.parts[0], Way(None, strengths, blocks)
    found, *_ = rig.errors(way, [frozenset({"v"}), frozenset({"v", "o_proj"})], part)
    # the other samples make the form, and its ranges
    others = [feed for number, feed in enumerate(feeds) if number not in part]
    plan = SmoothingPlan(model, nodes(model), others)
    steps = [
        plan.at(p, alpha, dict(blocks).get(p, 1))
        for p in plan.points
        if alpha or p.tensor in rotated
    ]
    half = JudgedHalf(replace(search, feeds=others), plan, [feeds[number] for number in part])
    trial, quantized = half.form(tuple(steps))
    expected = [
        [item.error / item.signal for item in row]
        for row in trial.measures(quantized, [{"v"}, {"v", "o_proj"}])
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3)

"""One session for every way to quantize, against sessions that were opened for one way each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import select
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.points import SmoothPoint, find_points
from qgraph._sensitivity.engines.switch import node_switches
from qgraph._sensitivity.scoring.questions import Scored
from qgraph._sensitivity.search.adjustable import Adjustable

NET = """<ir_version: 10, opset_import: ["" : 21]> net (float[N,32] x) => (float[N,24] y)
{ n = Mul(x, gamma) [first] h = MatMul(n, w) t = Tanh(h) [last] y = MatMul(t, v) }"""
SCORED = Scored(("y",), logits=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    generator = np.random.default_rng(0)
    made = onnx.parser.parse_model(NET)
    shapes = {"w": (32, 16), "gamma": (32,), "v": (16, 24)}
    for name, shape in shapes.items():
        array = generator.standard_normal(shape).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(made, path)
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
        whole = {point: np.ones(point.channels, np.float32) for point in points.values()}
        return quantization_in_place(model.model, nodes, ranges, scheme, whole | dict(smoothed))

    ways = [way(3.0, {}), way(1.0, {}), way(2.0, {points["n"]: factors})]
    keys = [(node.weight.tensor, node.weight.axis) for node in nodes if node.weight is not None]
    session = Adjustable(model, nodes, ways[0], keys, SCORED, Provider.CPU)
    for made in ways:
        own = node_switches(model, nodes, made, SCORED)
        for question in (frozenset({"first"}), frozenset({"last"}), frozenset({"first", "last"})):
            (expected,) = own.sums([question], [feed], lambda _share: None)[0]
            assert session.ask(0, feed, session.adjusted(made), question) == expected
            assert expected.error > 0

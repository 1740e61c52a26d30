"""Products of whole numbers: those of dequantized operands, as ONNX's reference has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.bodies import with_bodies
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.fake_quantizer import FakeQuantizer
from qgraph._graph.edit.integer_products import takes_integers
from qgraph._graph.edit.nodes import QuantizableNode, Weight, quantizable_nodes
from qgraph._graph.edit.switches import insert_switches
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.integers import products_are_exact
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.formats import formats_of, quantization_in
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.points import find_points

ONE = """(float[N,T,24] x) => (float[N,T,10] y)
{ h = LayerNormalization(x, g, b) [a] p = MatMul(h, w) r = Relu(p) [b] y = MatMul(r, v) }"""
RNG = np.random.default_rng(2)
X = RNG.standard_normal((2, 5, 24)).astype(np.float32) * 3
RANGES = {"h": Range(-2.5, 2.0), "r": Range(0, 9.0)}
"""Some values lie outside: they saturate at -128 and 127."""
Build = Callable[..., onnx.ModelProto]
exact = pytest.mark.skipif(not products_are_exact(), reason="this CPU saturates such products")


@pytest.fixture
def model(build: Build) -> onnx.ModelProto:
    ones, zeros = np.ones(24, np.float32), np.zeros(24, np.float32)
    w, v = (RNG.standard_normal(shape).astype(np.float32) for shape in ((24, 16), (16, 10)))
    return build(ONE, g=ones, b=zeros, w=w, v=v)


def with_quantized(
    model: onnx.ModelProto, made: FakeQuantization, *, integers: bool
) -> tuple[onnx.ModelProto, list[str]]:
    """Return `model` that also makes every node's quantized output, and these outputs' names."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    quantizer = FakeQuantizer(shown.graph, made, integers=integers)
    names = []
    for node in quantizable_nodes(model)[0]:
        proto = next(item for item in model.graph.node if item.name == node.name)
        nodes, name = quantizer.quantized(proto, node)
        shown.graph.node.extend(nodes)
        names.append(name)
    known = dict(quantizer.weights)
    for item in shown.graph.initializer:
        if item.name in known:
            item.CopyFrom(numpy_helper.from_array(known[item.name], item.name))
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return shown, names


def outputs(model: onnx.ModelProto, made: FakeQuantization, *, integers: bool) -> list[Array]:
    shown, names = with_quantized(model, made, integers=integers)
    found = open_session(shown).run({"x": X}, names)
    return [found[name] for name in names]


def operators(model: onnx.ModelProto, made: FakeQuantization) -> list[str]:
    shown, _ = with_quantized(model, made, integers=True)
    return [node.op_type for node in shown.graph.node]


def in_place(model: onnx.ModelProto, *, smooth: bool = False, rotate: bool = False) -> Any:
    index = GraphIndex(model)
    nodes = quantizable_nodes(model)[0]
    points = [point for point in find_points(model, nodes) if point.tensor == "h"]
    factors = {p: np.linspace(0.3, 3, 24).astype(np.float32) for p in points} if smooth else {}
    blocks = dict.fromkeys(points, 8) if rotate else {}
    assert points
    return quantization_in_place(index, nodes, RANGES, Scheme(), factors, blocks)


@exact
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
def test_they_are_the_products_of_dequantized_operands(
    model: onnx.ModelProto, *, smooth: bool, rotate: bool
) -> None:
    made = in_place(model, smooth=smooth, rotate=rotate)
    assert operators(model, made).count("MatMulInteger") == 2
    for whole, single in zip(
        outputs(model, made, integers=True), outputs(model, made, integers=False), strict=True
    ):
        np.testing.assert_allclose(whole, single, rtol=0, atol=2e-6 * abs(single).max())


@exact
def test_onnx_reference_agrees(model: onnx.ModelProto) -> None:
    shown, names = with_quantized(model, in_place(model), integers=True)
    expected = ReferenceEvaluator(shown).run(names, {"x": X})
    found = open_session(shown).run({"x": X}, names)
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6 * abs(values).max())


@exact
def test_a_scale_that_is_fed_counts(model: onnx.ModelProto) -> None:
    made = in_place(model)
    coarse = replace(
        made,
        scales={name: np.asarray(2 * scale, np.float32) for name, scale in made.scales.items()},
    )
    first, second = (outputs(model, each, integers=True)[0] for each in (made, coarse))
    expected = outputs(model, coarse, integers=False)[0]
    assert abs(first - second).max() > 1e-3
    np.testing.assert_allclose(second, expected, rtol=0, atol=2e-6 * abs(expected).max())


@exact
def test_a_switch_turns_them_on(model: onnx.ModelProto) -> None:
    made, nodes = in_place(model, smooth=True), quantizable_nodes(model)[0]
    found = []
    for integers in (True, False):
        switched = insert_switches(model, nodes, made, integers=integers)
        session = open_session(switched.model, weights=switched.weights)
        inside = [
            node.op_type for graph in with_bodies(switched.model.graph) for node in graph.node
        ]
        assert ("MatMulInteger" in inside) == integers
        found.append(
            [
                session.run({"x": X} | {n: np.asarray(n in on) for n in switched.inputs.values()})
                for on in ((), *((name,) for name in switched.inputs.values()))
            ]
        )
    for whole, single in zip(*found, strict=True):
        np.testing.assert_allclose(whole["y"], single["y"], atol=2e-6 * abs(single["y"]).max())
    assert abs(found[0][0]["y"] - found[0][1]["y"]).max() > 1e-3


def test_what_is_not_whole_numbers_is_multiplied_as_it_was(model: onnx.ModelProto) -> None:
    made, nodes = in_place(model), quantizable_nodes(model)[0]
    for name in formats_of(("int8", "fp8", "weight-int8"), Scheme()):
        other = quantization_in(name, model, nodes, RANGES, made)
        assert "MatMulInteger" not in operators(model, other)
    assert "MatMulInteger" not in operators(model, made.in_single())


@pytest.mark.parametrize(
    ("op", "index", "shape", "axis"),
    [
        ("Gemm", 1, (8, 4), 1),
        ("MatMul", 0, (8, 4), 0),
        ("MatMul", 1, (2, 8, 4), 2),
        ("MatMul", 1, (1 << 17, 4), 1),
    ],
)
def test_other_operands_are_not_taken(
    op: str, index: int, shape: tuple[int, ...], axis: int
) -> None:
    node = QuantizableNode("n", op, ((1 - index, "x"),), Weight("w", index, axis, shape), "y")
    assert not takes_integers(node)


def test_whether_products_are_exact_is_what_the_runtime_says() -> None:
    a = np.full((3, 96), 255, np.uint8)
    b = np.full((96, 8), 127, np.int8)
    text = "g (uint8[3,96] a, int8[96,8] b) => (int32[3,8] y) { y = MatMulInteger(a, b) }"
    graph = onnx.parser.parse_graph(text)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    made.ir_version = 8
    found = open_session(made).run({"a": a, "b": b})["y"]
    assert products_are_exact() == (found == 96 * 255 * 127).all()

"""fp16 graphs against what is not ours: the checker, ONNX's evaluator, which rounds, and a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.narrow import narrow, without_half_form
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.widen import rounded
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.models import write_model
from qgraph._graph.io.weights import array_of, is_on_disk
from qgraph._graph.run.feeds import synthetic_feeds
from qgraph._graph.run.session import open_session

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Floats = NDArray[np.float32]

GRAPHS = {
    "an output that is read inside": (
        "(float[N,8] x) => (float[N,8] y, float[N,8] z)"
        "{ [a] y = MatMul(x, w) [b] h = Relu(y) [c] z = MatMul(h, w) }"
    ),
    "an If whose bodies read a weight and a tensor": (
        "(float[N,8] x, bool c) => (float[N,8] y)"
        "{ [a] h = MatMul(x, w) [if] g = If(c) <"
        "then_branch = t () => (float[N,8] p) { p = MatMul(h, w) },"
        "else_branch = e () => (float[N,8] q) { q = Neg(h) }> [b] y = Relu(g) }"
    ),
    "scales of a Resize": (
        "(float[1,2,4,4] x) => (float[1,2,8,8] y)"
        '{ [a] h = Relu(x) [b] y = Resize<mode="nearest">(h, , s) }'
    ),
    "casts and shapes": (
        "(float[N,8] x) => (float[N,8] y, int64[2] n)"
        "{ [a] h = Relu(x) [n] n = Shape(h) [i] k = Cast<to = 7>(h) [f] f = Cast<to = 1>(k)"
        " [b] y = Add(f, h) }"
    ),
    "a Range, which has no fp16": (
        "(float[8] x) => (float[8] y)"
        "{ [n] n = Size(x) [f] f = Cast<to = 1>(n) [r] r = Range(zero, f, one) [a] h = Relu(x)"
        " [b] y = Add(h, r) }"
    ),
    "zeros of a type that is not said": (
        "(float[N,8] x) => (float[N,8] y)"
        "{ [n] n = Shape(x) [z] o = ConstantOfShape(n) [a] h = Add(x, o) [b] y = MatMul(h, w) }"
    ),
    "an input that is an output's only source": (
        "(float[N,8] x) => (float[N,8] y, float[N,8] z) { [a] y = Neg(x) [b] z = Add(x, y) }"
    ),
}
KEPT = {"nothing": [], "the first": ["a"], "the last": ["b"], "both": ["a", "b"]}


def weights() -> dict[str, Floats]:
    normal = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    return {
        "w": normal,
        "s": np.array([1, 1, 2, 2], np.float32),
        "zero": np.zeros((), np.float32),
        "one": np.ones((), np.float32),
    }


@pytest.fixture(params=list(GRAPHS))
def source(request: pytest.FixtureRequest, build: Build, prepared: Prepare) -> PreparedModel:
    text = GRAPHS[request.param]
    used = {name: array for name, array in weights().items() if f"{name}" in _words(text)}
    return prepared(build(text, **used))


def _words(text: str) -> set[str]:
    return set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())


def feed_of(source: PreparedModel) -> dict[str, Floats]:
    (feed,) = synthetic_feeds(source.inputs, 1, seed=3)
    return feed


@pytest.mark.parametrize("kept", list(KEPT))
def test_an_fp16_graph_is_valid_and_computes_what_fp32_did(
    source: PreparedModel, kept: str
) -> None:
    model = narrow(source.model, KEPT[kept])
    onnx.checker.check_model(model, full_check=True)
    feed = feed_of(source)
    want, got = open_session(source.model).run(feed), open_session(model).run(feed)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        # two products of 8 numbers up to 8, in fp16's 11 bits
        assert got[name] == pytest.approx(array, abs=0.1)


@pytest.mark.parametrize("kept", list(KEPT))
def test_the_rounding_graph_is_what_onnx_says_of_the_fp16_graph(
    source: PreparedModel, kept: str
) -> None:
    half = replace(source, model=narrow(source.model, KEPT[kept]))
    feed = feed_of(source)
    names = [value.name for value in half.model.graph.output]
    want = dict(zip(names, ReferenceEvaluator(half.model).run(None, feed), strict=True))
    got = open_session(rounded(half).model).run(feed)
    for name in names:
        # numpy sums 8 products of fp16 in fp32, as onnxruntime does, in another order: one step
        assert got[name] == pytest.approx(np.asarray(want[name]), rel=2**-9, abs=2**-9)


def test_a_node_makes_fp16_unless_it_is_kept(source: PreparedModel) -> None:
    model = narrow(source.model, ["a"])
    types = GraphIndex(model).types
    stay = {"a", *(keep.name for keep in without_half_form(source.model))}
    before = GraphIndex(source.model).types
    for node in model.graph.node:
        for name in node.output:
            if (
                before.get(name.removesuffix("/fp16")) == TensorProto.FLOAT
                and "/Cast" not in node.name
            ):
                wanted = TensorProto.FLOAT if node.name in stay else TensorProto.FLOAT16
                assert types[name] == wanted, node.name


def test_behind_an_operator_of_another_domain_all_stays_fp32_until_a_type_is_said(
    build: Build, prepared: Prepare
) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N,8] x)'
        " => (float[N,8] y) { [a] h = MatMul(x, w) [own] g = com.microsoft.FusedMatMul(h, w)"
        " [b] p = MatMul(g, w) [c] c = Cast<to = 1>(p) [d] y = MatMul(c, w) }"
    )
    source = prepared(build(text, w=weights()["w"]))
    model = narrow(source.model, [])
    assert [keep.name for keep in without_half_form(source.model)] == ["own", "b"]
    feed = feed_of(source)
    want, got = open_session(source.model).run(feed), open_session(model).run(feed)
    assert got["y"] == pytest.approx(want["y"], rel=2**-6, abs=1)


def test_a_tensor_is_cast_once(build: Build, prepared: Prepare) -> None:
    text = (
        "(float[N,8] x) => (float[N,8] y) { [a] h = Relu(x) [b] p = Neg(h) [c] q = Abs(h)"
        " [d] y = Add(p, q) }"
    )
    model = narrow(prepared(build(text)).model, ["b", "c"])
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == sorted(["x", "h", "p", "q", "y/fp16"])


@pytest.mark.parametrize("rows", [1, 1 << 13], ids=["in memory", "on the disk"])
def test_constants_beyond_fp16_are_held_at_half_of_it_and_others_rounded(
    build: Build, tmp_path: Path, rows: int
) -> None:
    values = np.array([[1e9, -3.4e38, np.inf, 1 / 3]] * rows, np.float32)
    text = f"(float[{rows},4] x) => (float[{rows},4] y) {{ [a] y = Max(x, m) }}"
    write_model(build(text, m=values), tmp_path / "m.onnx", external_above=0)
    source = prepare(tmp_path / "m.onnx")
    assert is_on_disk(source.model.graph.initializer[0]) is (rows > 1)
    model = narrow(source.model, [])
    (found,) = (array_of(item) for item in model.graph.initializer if item.name == "m")
    assert found[-1].tolist() == [32752, -32752, np.inf, float(np.float16(1 / 3))]


def test_weights_on_the_disk_are_narrowed_as_those_in_memory(build: Build, tmp_path: Path) -> None:
    text = "(float[N,256] x) => (float[N,256] y) { [a] y = MatMul(x, w) }"
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    write_model(build(text, w=weight), tmp_path / "m.onnx", external_above=0)
    source = prepare(tmp_path / "m.onnx")
    assert is_on_disk(source.model.graph.initializer[0])
    half = replace(source, model=narrow(source.model, []))
    write_model(half.model, tmp_path / "half.onnx", external_above=0)
    (held,) = (t for t in onnx.load(tmp_path / "half.onnx").graph.initializer if t.name == "w")
    assert np.array_equal(onnx.numpy_helper.to_array(held), weight.astype(np.float16))
    # the rounding graph reads the same file, and rounds on the way
    feed = {"x": np.eye(256, dtype=np.float32)}
    got = open_session(rounded(half).model).run(feed)["y"]
    assert np.array_equal(got, weight.astype(np.float16).astype(np.float32))

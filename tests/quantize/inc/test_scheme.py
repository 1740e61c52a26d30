"""The scheme inc-cpu against INC's own Q/DQ models: same numbers in the same places."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import observe_ranges
from onnx import numpy_helper

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.tensor_switches import insert_tensor_switches
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider, open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.inc import IncModel, quantize_with_inc
from qgraph._quantize.inc_scheme import (
    FOLLOWERS,
    activation_parameters,
    as_inc_selects,
    inc_parameters,
    inc_weight_scale,
    tensors_to_calibrate,
)
from qgraph._quantize.selection import select

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
MIXED = """(float[n, 2, 6, 6] x) => (float[n, 3] y) <int64[2] flat = {0, -1}> {
    [stem] c = Conv<pads = [1, 1, 1, 1]>(x, wc, bc)
    r = Relu(c)
    [branch] d = Conv<pads = [1, 1, 1, 1]>(r, wd)
    s = Add(r, d)
    f = Reshape(s, flat)
    [linear] m = MatMul(f, wm)
    t = Tanh(m)
    [head] y = Gemm<transB = 1>(t, wg, bg)
}"""
FEEDS = [
    {"x": np.random.default_rng(seed).standard_normal((1, 2, 6, 6)).astype(np.float32)}
    for seed in range(3)
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    """A graph with every kind of node INC quantizes, biases, and a tensor with two readers."""
    draw = np.random.default_rng(3).standard_normal
    shapes = {"wc": (4, 2, 3, 3), "bc": (4,), "wd": (4, 4, 3, 3)}
    shapes |= {"wm": (144, 8), "wg": (3, 8), "bg": (3,)}
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {MIXED}')
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(draw(shape).astype("f4"), name))
    path = tmp_path_factory.mktemp("mixed") / "mixed.onnx"
    onnx.save(model, path)
    return prepare(path)


Quantize = Callable[[set[str]], IncModel]


@pytest.fixture(scope="module")
def by_inc(mixed: PreparedModel) -> Quantize:
    """Give INC's model of the graph with these nodes quantized; each is made once."""
    made: dict[frozenset[str], IncModel] = {}

    def quantize(names: set[str]) -> IncModel:
        key = frozenset(names)
        if key not in made:
            made[key] = inc_model(mixed, names)
        return made[key]

    return quantize


def inc_model(prepared: PreparedModel, names: set[str]) -> IncModel:
    nodes = [node for node in quantizable_nodes(prepared.model)[0] if node.name in names]
    return quantize_with_inc(prepared, nodes, FEEDS, tensorrt=False)


def run(model: onnx.ModelProto) -> list[Array]:
    session = open_session(model)
    return [session.run(feed)["y"] for feed in FEEDS]


def ours(prepared: PreparedModel, names: set[str]) -> list[Array]:
    nodes = quantizable_nodes(prepared.model)[0]
    ranges = observe_ranges(prepared, tensors_to_calibrate(nodes), FEEDS, Provider.CPU)
    parameters = inc_parameters(prepared.model, nodes, ranges)
    graph = insert_tensor_switches(prepared.model, nodes, parameters, FOLLOWERS)
    switches = {name: np.asarray(bool(of & names)) for name, of in graph.switches.items()}
    session = open_session(graph.model)
    return [session.run(feed | switches)["y"] for feed in FEEDS]


@pytest.mark.parametrize(
    "names",
    [{"stem", "branch", "linear", "head"}, {"branch"}, {"stem", "linear", "head"}],
    ids=["all", "one", "all but one"],
)
def test_outputs_equal_those_of_incs_own_model(
    mixed: PreparedModel, by_inc: Quantize, names: set[str]
) -> None:
    made = by_inc(names)
    assert set(made.quantized) == names
    for a, b in zip(ours(mixed, names), run(made.model), strict=True):
        # the float parts run in another order of operations: a few units in the last place
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_scales_zero_points_and_integers_are_incs(mixed: PreparedModel, by_inc: Quantize) -> None:
    made = by_inc({"stem", "branch", "linear", "head"}).model
    theirs = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    nodes = quantizable_nodes(mixed.model)[0]
    ranges = observe_ranges(mixed, tensors_to_calibrate(nodes), FEEDS, Provider.CPU)
    found = inc_parameters(mixed.model, nodes, ranges)
    for tensor, affine in found.activations.items():
        # ranges come from two sessions, whose float sums may differ in the last place
        np.testing.assert_allclose(affine.scale, theirs[f"{tensor}_scale"], rtol=1e-6)
        assert affine.zero_point == theirs[f"{tensor}_zero_point"], tensor
    for node in nodes:
        assert node.weight is not None
        weight = found.weights[node.name]
        assert np.array_equal(weight.values, theirs[f"{node.weight.tensor}_quantized"])
        assert np.array_equal(weight.scale, theirs[f"{node.weight.tensor}_scale"].reshape(-1))
    for name, bias in (("stem", "bc"), ("head", "bg")):
        # one step of an int32 bias is 1e-5 of its value: a last-place scale may move it by one
        assert np.abs(found.biases[name].values - theirs[f"{bias}_quantized"]).max() <= 1


def test_every_node_that_reads_a_dequantizer_without_being_quantized_is_listed(
    mixed: PreparedModel, by_inc: Quantize
) -> None:
    made = by_inc({"branch"})
    assert made.excluded == ()
    touched = {item.node for item in made.others}
    kinds = {node.name: node.op_type for node in mixed.model.graph.node}
    assert "Add" in {kinds[name] for name in touched}


def test_a_sibling_left_out_reads_what_its_neighbour_wants_dequantized(
    build: Build, prepared: Prepare
) -> None:
    text = """(float[n, 2, 6, 6] x) => (float[n, 2, 6, 6] y) {
        r = Tanh(x)
        [a] p = Conv<pads = [1, 1, 1, 1]>(r, wa)
        [b] q = Conv<pads = [1, 1, 1, 1]>(r, wb)
        y = Add(p, q)
    }"""
    draw = np.random.default_rng(5).standard_normal
    weights = {name: draw((2, 2, 3, 3)).astype(np.float32) for name in ("wa", "wb")}
    model = prepared(build(text, **weights))
    made = inc_model(model, {"a"})
    assert [(item.node, item.op_type) for item in made.excluded] == [("b", "Conv")]
    for x, y in zip(ours(model, {"a"}), run(made.model), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)  # as above


def test_the_operators_that_follow_are_those_inc_has_a_class_for() -> None:
    code = (
        "from qgraph._quantize.inc.patches import onnx_mapping\n"
        "with onnx_mapping():\n"
        "    from neural_compressor.adaptor.ox_utils.operators import OPERATORS\n"
        "    print(','.join(sorted(OPERATORS)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.strip().split(",")) == FOLLOWERS


def test_what_inc_does_not_quantize_is_no_candidate(build: Build) -> None:
    text = """(float[n, 2, 4] x, float[n, 4, 2] k) => (float[n, 2, 2] y, float[n, 2, 9] z) {
        [product] y = MatMul(x, k)
        [up] z = ConvTranspose<kernel_shape = [3], strides = [2]>(x, w)
    }"""
    model = build(text, w=np.ones((2, 2, 3), np.float32))
    chosen = select(model, include=[".*"])
    assert len(chosen.candidates) == 2
    left = as_inc_selects(model, chosen)
    assert left.candidates == ()
    assert {keep.name for keep in left.kept} == {"product", "up"}


@pytest.mark.parametrize(
    ("seen", "scale", "zero"),
    [
        (Range(-1.0, 1.55), 0.01, 100),
        (Range(0.5, 2.55), 0.01, 0),
        (Range(-2.55, -1.0), 0.01, 255),
        (Range(0.0, 0.0), 1.0, 0),
    ],
)
def test_the_range_of_an_activation_always_holds_zero(seen: Range, scale: float, zero: int) -> None:
    found = activation_parameters(seen)
    assert found.scale == np.float32(scale)
    assert found.zero_point == zero
    assert found.zero_point.dtype == np.uint8


def test_a_channel_of_zeros_has_scale_one() -> None:
    weight = np.array([[0.0, 1.27], [0.0, -0.5]], np.float32)
    assert inc_weight_scale(weight, 1).ravel() == pytest.approx([1.0, 0.01])


def test_a_range_that_is_missing_and_a_weight_that_is_not_finite_are_errors(build: Build) -> None:
    text = "(float[n, 2] x) => (float[n, 2] y) { [a] y = MatMul(x, w) }"
    model = build(text, w=np.array([[1, np.inf], [0, 1]], np.float32))
    nodes = quantizable_nodes(model)[0]
    with pytest.raises(UsageError, match="no range of tensor 'x'"):
        inc_parameters(model, nodes, {})
    with pytest.raises(InputError, match="'w'"):
        inc_parameters(model, nodes, {"x": Range(0, 1), "y": Range(0, 1)})


def test_switched_off_the_graph_computes_what_the_float_model_does(mixed: PreparedModel) -> None:
    for a, b in zip(ours(mixed, set()), run(mixed.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)  # kernels may be fused otherwise


def test_the_source_model_is_left_as_it_was(mixed: PreparedModel, tmp_path: Path) -> None:
    before = mixed.model.SerializeToString(deterministic=True)
    ours(mixed, {"stem"})
    assert mixed.model.SerializeToString(deterministic=True) == before

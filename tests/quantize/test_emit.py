from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.errors import InputError
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.rules.finding import Finding, Severity, Target
from qgraph._graph.rules.linting import lint
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.run.feeds import synthetic_feeds
from qgraph._graph.run.session import Semantics, open_session
from qgraph._graph.tensors import Array
from qgraph._quantize.proof import prove
from qgraph._quantize.scheme import Scheme, SchemeName

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Quantized = Callable[..., onnx.ModelProto]
Weight = Callable[..., NDArray[np.float32]]

_STEPS = {"float": 2**-20, "float16": 2**-8, "bfloat16": 2**-5}
"""Of numbers up to 8."""

TWO_LAYERS = (
    "(float[N,8] x) => (float[N,4] y)"
    "{ [a] h = MatMul(x, w) [act] r = Relu(h) [b] y = Gemm(r, v, bias) }"
)
SHARED_INPUT = (
    "(float[N,8] x) => (float[N,6] p, float[N,6] q) { [a] p = MatMul(x, w) [b] q = MatMul(x, v) }"
)


@pytest.fixture
def layers(build: Build, prepared: Prepare, weight: Weight) -> PreparedModel:
    return prepared(build(TWO_LAYERS, w=weight(8, 6), v=weight(6, 4), bias=weight(4)))


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto
    (found,) = (item for item in model.graph.node if item.name == name)
    return found


def producer(model: onnx.ModelProto, tensor: str) -> str:
    return next((item.op_type for item in model.graph.node if tensor in item.output), "")


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}


def count(model: onnx.ModelProto, op: str) -> int:
    return sum(item.op_type == op for item in model.graph.node)


def lint_errors(model: onnx.ModelProto) -> list[Finding]:
    found = lint(QdqGraph(model, Path()), Target.TENSORRT_10)
    return [item for item in found if item.severity is not Severity.ADVICE]


def qdq_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    names = {"QuantizeLinear", "DequantizeLinear"}
    return [item for item in model.graph.node if item.op_type in names]


def outputs(model: onnx.ModelProto, source: PreparedModel) -> list[bytes]:
    session = open_session(model, semantics=Semantics.EXACT)
    feeds = synthetic_feeds(source.inputs, 2, seed=3)
    return [array.tobytes() for feed in feeds for array in session.run(feed).values()]


def test_an_empty_profile_computes_what_the_source_does(
    layers: PreparedModel, quantized: Quantized
) -> None:
    assert outputs(quantized(layers, []), layers) == outputs(layers.model, layers)


def test_an_empty_profile_has_no_qdq(layers: PreparedModel, quantized: Quantized) -> None:
    model = quantized(layers, [])
    assert count(model, "QuantizeLinear") == count(model, "DequantizeLinear") == 0


@pytest.mark.parametrize("names", [[], ["a"], ["b"], ["a", "b"]])
def test_an_emitted_model_passes_the_checker_the_proof_and_the_linter(
    layers: PreparedModel, quantized: Quantized, scheme: Scheme, names: list[str]
) -> None:
    model = quantized(layers, names, scheme)
    onnx.checker.check_model(model, full_check=True)
    nodes = [item for item in quantizable_nodes(layers.model)[0] if item.name in names]
    proof = prove(model, layers.model, nodes, scheme.grid.data_type)
    assert not lint_errors(model)
    assert (proof.quantized, proof.untouched) == (len(names), 3 - len(names))


CONVOLUTIONS = [
    ("(float[1,4,8,8] x) => (float[1,6,6,6] y) { [c] y = Conv(x, w) }", (6, 4, 3, 3)),
    ("(float[1,4,8,8] x) => (float[1,6,6,6] y) { [c] y = Conv<group = 2>(x, w) }", (6, 2, 3, 3)),
    ("(float[1,4,8] x) => (float[1,6,10] y) { [c] y = ConvTranspose(x, w) }", (4, 6, 3)),
    ("(float[1,4,8] x) => (float[1,6,10] y) { [c] y = ConvTranspose<group=2>(x, w) }", (4, 3, 3)),
    ("(float[N,4] x) => (float[N,6] y) { [c] y = Gemm<transB = 1>(x, w) }", (6, 4)),
]


@pytest.mark.parametrize(("text", "shape"), CONVOLUTIONS)
def test_every_kind_of_node_is_emitted_valid_and_close(
    build: Build,
    prepared: Prepare,
    quantized: Quantized,
    weight: Weight,
    scheme: Scheme,
    text: str,
    shape: tuple[int, ...],
) -> None:
    source = prepared(build(text, w=weight(*shape)))
    model = quantized(source, ["c"], scheme)
    onnx.checker.check_model(model, full_check=True)
    feed = synthetic_feeds(source.inputs, 2)[0]  # one of the two that gave the ranges
    want = open_session(source.model).run(feed)["y"]
    error = open_session(model).run(feed)["y"] - want
    # INT8 of normal data is about 40 dB, FP8 with its three bits of mantissa about 29; a scale on
    # the wrong axis loses more than half of INT8's.
    floor = {SchemeName.INT8: 30, SchemeName.FP8: 25}[scheme.name]
    assert 10 * np.log10(np.mean(want**2) / np.mean(error**2)) > floor


def test_data_and_weight_of_a_quantized_node_come_from_a_dequantizelinear(
    layers: PreparedModel, quantized: Quantized
) -> None:
    model = quantized(layers, ["a"])
    assert [producer(model, name) for name in node(model, "a").input] == ["DequantizeLinear"] * 2


def test_a_bias_stays_float(layers: PreparedModel, quantized: Quantized) -> None:
    model = quantized(layers, ["b"])
    assert node(model, "b").input[2] == "bias" and constants(model)["bias"].dtype == np.float32


def test_the_output_of_a_quantized_node_keeps_its_name_and_gets_no_qdq(
    layers: PreparedModel, quantized: Quantized
) -> None:
    model = quantized(layers, ["a"])
    assert list(node(model, "a").output) == ["h"] and list(node(model, "act").input) == ["h"]


def test_an_excluded_consumer_reads_the_untouched_tensor(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    source = prepared(build(SHARED_INPUT, w=weight(8, 6), v=weight(8, 6, seed=1)))
    assert list(node(quantized(source, ["a"]), "b").input) == ["x", "v"]


def test_an_excluded_consumer_computes_what_it_did(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    source = prepared(build(SHARED_INPUT, w=weight(8, 6), v=weight(8, 6, seed=1)))
    got, want = outputs(quantized(source, ["a"]), source), outputs(source.model, source)
    assert got[1::2] == want[1::2] and got[0] != want[0]


def test_consumers_of_one_tensor_share_one_quantizelinear(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    source = prepared(build(SHARED_INPUT, w=weight(8, 6), v=weight(8, 6, seed=1)))
    model = quantized(source, ["a", "b"])
    assert count(model, "QuantizeLinear") == 1 and count(model, "DequantizeLinear") == 3


def test_the_float_weight_goes(layers: PreparedModel, quantized: Quantized) -> None:
    held = constants(quantized(layers, ["a"]))
    assert "w" not in held and any(
        array.dtype == np.int8 and array.ndim == 2 for array in held.values()
    )


SHARED_WEIGHT = (
    "(float[N,6] x) => (float[N,6] y) { [a] h = MatMul(x, w) [b] y = Gemm<transB = 1>(h, w) }"
)


def test_a_shared_weight_with_an_excluded_user_keeps_its_float_copy(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    model = quantized(prepared(build(SHARED_WEIGHT, w=weight(6, 6))), ["a"])
    assert np.array_equal(constants(model)["w"], weight(6, 6)) and node(model, "b").input[1] == "w"


def test_a_weight_read_along_two_axes_gets_a_copy_for_each(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    model = quantized(prepared(build(SHARED_WEIGHT, w=weight(6, 6))), ["a", "b"])
    axes = [
        item.attribute[0].i
        for item in model.graph.node
        if item.op_type == "DequantizeLinear" and item.attribute
    ]
    assert sorted(axes) == [0, 1] and "w" not in constants(model)


def test_a_branch_goes_on_reading_the_float_weight(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    text = (
        "(float[N,6] x, bool c) => (float[N,6] y) { [a] h = MatMul(x, w) [if] y = If(c) <"
        "then_branch = t () => (float[N,6] p) { p = MatMul(h, w) },"
        "else_branch = e () => (float[N,6] q) { q = Identity(h) }> }"
    )
    model = quantized(prepared(build(text, w=weight(6, 6))), ["a"])
    onnx.checker.check_model(model, full_check=True)
    session, x = open_session(model), weight(3, 6, seed=9)
    product, plain = (session.run({"x": x, "c": np.array(c)})["y"] for c in (True, False))
    # two orders of summing six float32 products; the int8 weight would differ by 1e-2
    assert product == pytest.approx(plain @ weight(6, 6), abs=1e-5)


def test_a_bias_that_is_also_the_weight_stays_float(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    text = "(float[6,6] x) => (float[6,6] y) { [a] y = Gemm(x, w, w) }"
    model = quantized(prepared(build(text, w=weight(6, 6))), ["a"])
    assert node(model, "a").input[2] == "w"


def test_a_product_of_one_tensor_with_itself_is_quantized_on_both_sides(
    build: Build, prepared: Prepare, quantized: Quantized
) -> None:
    source = prepared(build("(float[6,6] x) => (float[6,6] y) { [a] y = MatMul(x, x) }"))
    model = quantized(source, ["a"])
    assert [producer(model, name) for name in node(model, "a").input] == ["DequantizeLinear"] * 2
    assert count(model, "QuantizeLinear") == 1


def test_zero_points_are_explicit_zeros_of_the_quantized_type(
    layers: PreparedModel, quantized: Quantized, scheme: Scheme
) -> None:
    model = quantized(layers, ["a", "b"], scheme)
    zeros = [constants(model)[item.input[2]] for item in qdq_nodes(model)]
    assert len(zeros) == 6
    assert all(zero.dtype == scheme.grid.dtype and not zero.any() for zero in zeros)


@pytest.mark.parametrize("kind", ["float", "float16", "bfloat16"])
def test_a_graph_of_any_float_type_is_emitted_in_it_and_computes_what_onnx_says(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight, scheme: Scheme, kind: str
) -> None:
    code = onnx.TensorProto.DataType.Value(kind.upper())
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
    text = f"({kind}[N,8] x) => ({kind}[N,6] y) {{ [a] y = MatMul(x, w) }}"
    source = prepared(build(text, w=weight(8, 6).astype(dtype)))
    model = quantized(source, ["a"], scheme)
    onnx.checker.check_model(model, full_check=True)
    assert {constants(model)[item.input[1]].dtype for item in qdq_nodes(model)} == {dtype}
    prove(model, source.model, quantizable_nodes(source.model)[0], scheme.grid.data_type)
    assert not lint_errors(model)
    # onnxruntime has no bfloat16 kernels on the CPU; what it computes of a half-precision graph is
    # computed in float32, as the engines do
    single = in_single(replace(source, model=model)).model
    feed = {"x": weight(4, 8, seed=5).astype(dtype)}
    (want,) = ReferenceEvaluator(model).run(None, feed)
    got = open_session(single).run(FeedsInSingle([feed])[0])["y"]
    # the reference rounds each product and sum of 8 to the type, whose steps are 2^-8 for bfloat16
    assert got == pytest.approx(np.asarray(want, np.float32), abs=8 * _STEPS[kind])


def test_a_product_in_half_precision_has_scales_in_half_precision(
    build: Build, prepared: Prepare, quantized: Quantized
) -> None:
    text = (
        "(float16[6,6] x) => (float16[6,6] y)"
        "{ l = Relu(x) r = Abs(x) [a] p = MatMul(l, r) y = Neg(p) }"
    )
    source = prepared(build(text))
    model = quantized(source, ["a"])
    onnx.checker.check_model(model, full_check=True)
    assert len(outputs(model, source)) == 2


def test_names_already_taken_are_stepped_over(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    text = (
        "(float[N,8] x, float[N,8] x_scale, float[N,8] x_QuantizeLinear_output) => (float[N,6] y)"
        "{ s = Add(x_scale, x_QuantizeLinear_output) [x_DequantizeLinear] t = Add(s, x)"
        " u = MatMul(t, w_quantized) [a] v = MatMul(x, w) y = Add(u, v) }"
    )
    source = prepared(build(text, w=weight(8, 6), w_quantized=weight(8, 6, seed=1)))
    model = quantized(source, ["a"])
    onnx.checker.check_model(model, full_check=True)
    prove(model, source.model, [n for n in quantizable_nodes(source.model)[0] if n.name == "a"])
    assert len(outputs(model, source)) == 2


def test_metadata_says_where_the_model_comes_from(
    layers: PreparedModel, quantized: Quantized
) -> None:
    found = {item.key: item.value for item in quantized(layers, ["a"]).metadata_props}
    scheme = json.loads(found.pop("qgraph.scheme"))
    assert scheme == {
        "name": "int8", "calibrate": "minmax", "smooth": "none", "rotate": "none", "weights": "max",
    }  # fmt: skip
    assert found == {
        "qgraph.profile": "test",
        "qgraph.source_sha256": layers.id.sha256,
        "qgraph.quantized_nodes": "1",
    }


def test_the_opset_is_21(layers: PreparedModel, quantized: Quantized) -> None:
    assert {item.domain: item.version for item in quantized(layers, ["a"]).opset_import} == {"": 21}


def test_emitting_twice_gives_the_same_bytes(
    layers: PreparedModel, quantized: Quantized, tmp_path: Path
) -> None:
    for name in ("one.onnx", "two.onnx"):
        write_model(quantized(layers, ["a", "b"]), tmp_path / name)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_emitting_does_not_change_the_source(layers: PreparedModel, quantized: Quantized) -> None:
    before = layers.model.SerializeToString(deterministic=True)
    quantized(layers, ["a", "b"])
    assert layers.model.SerializeToString(deterministic=True) == before


def test_an_emitted_model_is_refused_as_a_source(
    layers: PreparedModel, quantized: Quantized, tmp_path: Path
) -> None:
    write_model(quantized(layers, ["a"]), tmp_path / "q.onnx")
    with pytest.raises(InputError, match="quantized already"):
        prepare(tmp_path / "q.onnx")


def test_an_emitted_model_survives_a_data_file(
    layers: PreparedModel, quantized: Quantized, tmp_path: Path
) -> None:
    model = quantized(layers, ["a", "b"])
    write_model(model, tmp_path / "q.onnx", external_above=0)
    assert outputs(read_model(tmp_path / "q.onnx"), layers) == outputs(model, layers)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named_with_its_place(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight, value: float
) -> None:
    array = weight(8, 6)
    array[3, 2] = value
    text = "(float[N,8] x) => (float[N,6] y) { [a] y = MatMul(x, w) }"
    with pytest.raises(InputError, match=r"at \[3, 2\]") as caught:
        quantized(prepared(build(text, w=array)), ["a"])
    assert caught.value.where == "tensor 'w'"


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e38])
def test_weights_of_any_size_give_a_model_that_is_proved(
    build: Build, prepared: Prepare, quantized: Quantized, scheme: Scheme, size: float
) -> None:
    text = "(float[N,8] x) => (float[N,6] y) { [a] y = MatMul(x, w) }"
    source = prepared(build(text, w=np.full((8, 6), size, np.float32)))
    model = quantized(source, ["a"], scheme)
    nodes = quantizable_nodes(source.model)[0]
    assert prove(model, source.model, nodes, scheme.grid.data_type).activations == 1


def test_an_emitted_model_keeps_what_the_exporter_wrote_beside_nodes(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    model = build("(float[N,8] x) => (float[N,8] y) { [a] y = MatMul(x, w) }", w=weight(8, 8))
    model.graph.node[0].metadata_props.add(key="namespace", value="layers.0")
    emitted = quantized(prepared(model), ["a"])
    assert [(p.key, p.value) for p in node(emitted, "a").metadata_props] == [
        ("namespace", "layers.0")
    ]

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest
from graphs import observe_ranges
from numpy.typing import NDArray

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.switches import SwitchGraph, insert_switches
from qgraph._graph.io.models import tensor_from
from qgraph._graph.run.feeds import synthetic_feeds
from qgraph._graph.run.session import Provider, Semantics, open_session
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.scheme import Scheme

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Quantized = Callable[..., onnx.ModelProto]
Weight = Callable[..., NDArray[np.float32]]

PLAIN = Scheme()
NET = (
    "(float[N,8] x) => (float[N,8] y, float[N,6] q, float[N,6] g)"
    "{ [a] h = MatMul(x, w) [act] r = Relu(h) [b] y = Gemm<transB = 1>(r, v, bias)"
    " [c] q = MatMul(x, u) [d] t = Transpose<perm = [1, 0]>(q) [e] m = MatMul(q, t)"
    " [f] g = MatMul(m, q) }"
)
NODES = ["a", "b", "c", "e", "f"]


@pytest.fixture
def net(build: Build, prepared: Prepare, weight: Weight) -> PreparedModel:
    weights = {"w": weight(8, 6), "v": weight(8, 6, seed=1), "u": weight(8, 6, seed=2)}
    return prepared(build(NET, bias=weight(8), **weights))


def switched(source: PreparedModel, scheme: Scheme = PLAIN) -> SwitchGraph:
    nodes: list[QuantizableNode] = quantizable_nodes(source.model)[0]
    tensors = [name for node in nodes for _, name in node.activations]
    ranges = observe_ranges(source, tensors, synthetic_feeds(source.inputs, 2), Provider.CPU)
    parameters = quantization_parameters(source.model, nodes, ranges, scheme)
    return insert_switches(source.model, nodes, fake_quantization(parameters))


def run(
    model: onnx.ModelProto, feed: Feed, weights: Mapping[str, Array] | None = None
) -> dict[str, bytes]:
    result = open_session(model, semantics=Semantics.EXACT, weights=weights).run(feed)
    return {name: array.tobytes() for name, array in result.items()}


def run_switched(
    source: PreparedModel, on: Sequence[str], scheme: Scheme = PLAIN
) -> dict[str, bytes]:
    graph = switched(source, scheme)
    (feed,) = synthetic_feeds(source.inputs, 1, seed=5)
    switches = {name: np.array(node in on) for node, name in graph.inputs.items()}
    return run(graph.model, feed | switches, graph.weights)


def run_plain(source: PreparedModel, model: onnx.ModelProto) -> dict[str, bytes]:
    (feed,) = synthetic_feeds(source.inputs, 1, seed=5)
    return run(model, feed)


def test_each_candidate_has_a_switch_of_its_own(net: PreparedModel) -> None:
    inputs = switched(net).inputs
    assert sorted(inputs) == NODES and len(set(inputs.values())) == len(NODES)


def test_all_off_equals_the_float_model_bit_for_bit(net: PreparedModel) -> None:
    assert run_switched(net, []) == run_plain(net, net.model)


@pytest.mark.parametrize("name", NODES)
def test_one_on_equals_the_emitted_model_of_that_node_bit_for_bit(
    net: PreparedModel, quantized: Quantized, scheme: Scheme, name: str
) -> None:
    emitted = quantized(net, [name], scheme)
    assert run_switched(net, [name], scheme) == run_plain(net, emitted)


def test_all_on_equals_the_emitted_model_of_all_nodes_bit_for_bit(
    net: PreparedModel, quantized: Quantized, scheme: Scheme
) -> None:
    emitted = quantized(net, NODES, scheme)
    assert run_switched(net, NODES, scheme) == run_plain(net, emitted)


def test_neighbours_of_a_switched_node_are_untouched(net: PreparedModel) -> None:
    off, on = run_switched(net, []), run_switched(net, ["a"])
    assert on["q"] == off["q"] and on["g"] == off["g"] and on["y"] != off["y"]


def test_a_bias_that_is_also_the_weight_stays_float(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    text = "(float[6,6] x) => (float[6,6] y) { [a] y = Gemm(x, w, w) }"
    source = prepared(build(text, w=weight(6, 6)))
    assert run_switched(source, ["a"]) == run_plain(source, quantized(source, ["a"]))


def test_a_weight_shared_along_two_axes_has_a_copy_for_each(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight
) -> None:
    text = "(float[N,6] x) => (float[N,6] y) { [a] h = MatMul(x, w) [b] y = Gemm<transB=1>(h, w) }"
    source = prepared(build(text, w=weight(6, 6)))
    both = run_plain(source, quantized(source, ["a", "b"]))
    assert run_switched(source, ["a", "b"]) == both


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("(float[1,4,8,8] x) => (float[1,6,6,6] y) { [a] y = Conv<group=2>(x, w) }", (6, 2, 3, 3)),
        (
            "(float[1,4,8] x) => (float[1,6,10] y) { [a] y = ConvTranspose<group=2>(x, w) }",
            (4, 3, 3),
        ),
    ],
)
def test_a_switched_convolution_equals_the_emitted_one_bit_for_bit(
    build: Build,
    prepared: Prepare,
    quantized: Quantized,
    weight: Weight,
    text: str,
    shape: tuple[int, ...],
) -> None:
    source = prepared(build(text, w=weight(*shape)))
    assert run_switched(source, ["a"]) == run_plain(source, quantized(source, ["a"]))


def test_a_half_precision_switch_equals_the_emitted_model_bit_for_bit(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight, scheme: Scheme
) -> None:
    text = "(float16[N,8] x) => (float16[N,6] y) { [a] y = MatMul(x, w) }"
    source = prepared(build(text, w=weight(8, 6).astype(np.float16)))
    emitted = quantized(source, ["a"], scheme)
    assert run_switched(source, ["a"], scheme) == run_plain(source, emitted)


def test_a_switch_graph_passes_the_checker(net: PreparedModel) -> None:
    graph = switched(net)
    for item in graph.model.graph.initializer:
        if item.name in graph.weights:
            item.CopyFrom(tensor_from(item.name, graph.weights[item.name]))
    onnx.checker.check_model(graph.model, full_check=True)


def test_scales_in_a_switch_graph_are_scalars(net: PreparedModel) -> None:
    shapes = {
        tuple(item.dims)
        for item in switched(net).model.graph.initializer
        if "/scale" in item.name or "zero_point" in item.name
    }
    assert shapes == {()}


def test_a_model_without_candidates_is_only_copied(net: PreparedModel) -> None:
    graph = insert_switches(
        net.model, [], fake_quantization(quantization_parameters(net.model, [], {}))
    )
    assert graph.model == net.model and not graph.inputs

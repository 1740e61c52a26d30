"""Bias correction: means come back, and nothing but the bias of a quantized node changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.biases import Bias, find_biases
from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Feed
from qgraph._quantize.correct import Corrected, correct, mean_shifts
from qgraph._quantize.emit import emit, fake_quantization, quantization_parameters
from qgraph._quantize.proof import ProofError, prove
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.scheme import Scheme

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Weight = Callable[..., NDArray[np.float32]]

GEMM = "(float[N,8] x) => (float[N,6] y) { [a] y = Gemm(x, w, c) }"
ADDED = "(float[N,8] x) => (float[N,6] y) { [a] p = MatMul(x, w) y = Add(c, p) }"
CONV = "(float[N,4,5,5] x) => (float[N,6,5,5] y) { [a] y = Conv<pads=[1,1,1,1]>(x, w, c) }"
UP = "(float[N,4,5,5] x) => (float[N,6,7,7] y) { [a] y = ConvTranspose(x, w, c) }"
TWO = """(float[N,8] x) => (float[N,6] y, float[N,6] z)
{ [a] y = Gemm(x, w, c) [b] z = Gemm(x, v, c) }"""
CLIPPED = {"x": Range(0.0, 0.7)}


@dataclass
class Case:
    prepared: PreparedModel
    feeds: list[Feed]

    def nodes(self, names: Sequence[str] = ("a",)) -> list[QuantizableNode]:
        return [node for node in quantizable_nodes(self.prepared.model)[0] if node.name in names]

    def corrected(self, names: Sequence[str] = ("a",)) -> Corrected:
        nodes = self.nodes(names)
        made = quantization_parameters(self.prepared.model, nodes, CLIPPED)
        shifts = mean_shifts(self.prepared, nodes, fake_quantization(made), self.feeds)
        return correct(self.prepared, nodes, shifts)

    def emit(self, prepared: PreparedModel, names: Sequence[str] = ("a",)) -> onnx.ModelProto:
        return emit(prepared, self.nodes(names), CLIPPED, Provenance("t", Scheme(), "", "0"))

    def means(self, model: onnx.ModelProto, output: str = "y") -> NDArray[Any]:
        session = open_session(model)
        found = [session.run(feed)[output] for feed in self.feeds]
        others = tuple(i for i in range(found[0].ndim + 1) if i != 2)  # samples come first
        mean: NDArray[Any] = np.mean(found, axis=others)
        return mean


@pytest.fixture
def case(build: Build, prepared: Prepare, weight: Weight) -> Callable[..., Case]:
    """Return a function that makes a case; half of its data is clipped by INT8."""

    def make(text: str, *shape: int, **shapes: tuple[int, ...]) -> Case:
        arrays = {name: weight(*size, seed=i) for i, (name, size) in enumerate(shapes.items())}
        generator = np.random.default_rng(3)
        feeds = [{"x": generator.random(shape).astype(np.float32)} for _ in range(4)]
        return Case(prepared(build(text, **arrays)), feeds)

    return make


@pytest.mark.parametrize(
    ("text", "shape", "w"),
    [
        (GEMM, (64, 8), (8, 6)),
        (ADDED, (64, 8), (8, 6)),
        (CONV, (8, 4, 5, 5), (6, 4, 3, 3)),
        (UP, (8, 4, 5, 5), (4, 6, 3, 3)),
    ],
)
def test_the_mean_of_a_channel_comes_back(
    case: Callable[..., Case], text: str, shape: tuple[int, ...], w: tuple[int, ...]
) -> None:
    made = case(text, *shape, w=w, c=(6,))
    corrected = made.corrected()
    expected = made.means(made.prepared.model)
    plain, mended = (made.means(made.emit(p)) for p in (made.prepared, corrected.prepared))
    large = np.abs(plain - expected) > 0.05
    assert large.any()
    # the bias is float32, and so is what it is added to; small shifts may be within the noise
    assert np.abs(mended - expected)[large].max() < 1e-5
    assert (np.abs(mended - expected) <= np.abs(plain - expected) + 1e-5).all()
    model = made.emit(corrected.prepared)
    prove(model, made.prepared.model, made.nodes(), corrected=corrected.biases)


def test_a_bias_shared_with_an_excluded_node_stays_its_own(case: Callable[..., Case]) -> None:
    made = case(TWO, 64, 8, w=(8, 6), v=(8, 6), c=(6,))
    corrected = made.corrected()
    model = made.emit(corrected.prepared)
    prove(model, made.prepared.model, made.nodes(), corrected=corrected.biases)
    before, after = (open_session(m).run(made.feeds[0]) for m in (made.prepared.model, model))
    assert np.array_equal(before["z"], after["z"])
    assert not np.array_equal(before["y"], after["y"])


def test_a_corrected_bias_that_was_not_asked_for_is_refused(case: Callable[..., Case]) -> None:
    made = case(TWO, 64, 8, w=(8, 6), v=(8, 6), c=(6,))
    model = made.emit(made.corrected().prepared)
    with pytest.raises(ProofError, match=r"'a' reads 'c/corrected', not 'c' untouched"):
        prove(model, made.prepared.model, made.nodes())


def test_a_correction_of_an_excluded_node_is_refused(case: Callable[..., Case]) -> None:
    made = case(TWO, 64, 8, w=(8, 6), v=(8, 6), c=(6,))
    both = made.corrected(("a", "b"))
    model = made.emit(both.prepared)
    with pytest.raises(ProofError, match="'b' holds no bias of a quantized 'b'"):
        prove(model, made.prepared.model, made.nodes(), corrected=both.biases)
    # nor under the name of a quantized one
    lie = {"a": replace(both.biases["a"], reader="b")}
    with pytest.raises(ProofError, match="'b' holds no bias of a quantized 'a'"):
        prove(model, made.prepared.model, made.nodes(), corrected=lie)


@pytest.mark.parametrize(
    "text",
    [
        "(float[N,8] x) => (float[N,6] y) { [a] y = MatMul(x, w) }",
        "(float[N,8] x) => (float[N,6] y, float[N,6] p) { [a] p = MatMul(x, w) y = Add(p, c) }",
        "(float[N,8] x) => (float[N,6] y) { [a] p = MatMul(x, w) q = Add(p, c) y = Mul(p, q) }",
        "(float[N,8] x) => (float[N,6] y) { [a] y = Gemm<beta = 0.5>(x, w, c) }",
    ],
)
def test_what_is_no_bias_of_one_node_is_left_alone(case: Callable[..., Case], text: str) -> None:
    made = case(text, 64, 8, w=(8, 6), c=(6,))
    assert find_biases(made.prepared.model, made.nodes()) == {}
    assert made.corrected().biases == {}


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("node", ["p = MatMul(x, w)", "p = Gemm(x, w)"])
def test_one_value_for_all_channels_is_no_bias(
    case: Callable[..., Case], node: str, shape: tuple[int, ...]
) -> None:
    text = f"(float[N,8] x) => (float[N,6] y) {{ [a] {node} y = Add(p, c) }}"
    made = case(text.replace("Gemm(x, w) y = Add(p, c)", "Gemm(x, w, c) y = Relu(p)"), 64, 8,
                w=(8, 6), c=shape)  # fmt: skip
    assert made.corrected().biases == {}


def test_a_shift_within_the_noise_of_the_samples_is_not_taken(case: Callable[..., Case]) -> None:
    made = case(GEMM, 64, 8, w=(8, 6), c=(6,))
    nodes = made.nodes()
    wide = {"x": Range(0.0, 1.0)}  # nothing is clipped; rounding has no mean
    quantization = fake_quantization(quantization_parameters(made.prepared.model, nodes, wide))
    generator = np.random.default_rng(5)
    feeds = [{"x": generator.random((2, 8)).astype(np.float32)} for _ in range(40)]
    wild = [{"x": feed["x"] * np.float32(generator.choice([-1, 1]))} for feed in feeds]
    shifts = mean_shifts(made.prepared, nodes, quantization, wild)["a"]
    assert np.count_nonzero(shifts) <= 2
    assert find_biases(made.prepared.model, nodes) == {"a": Bias("a", 2, "c", (6,))}

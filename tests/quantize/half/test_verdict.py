"""What is kept in fp32: each rule by a graph that breaks without it, in ONNX's own evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.narrow import narrow
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import pieces
from qgraph._quantize.half.convert import to_half
from qgraph._quantize.half.facts import _longest

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Floats = NDArray[np.float32]

X = "(float[2,8] x) => (float[2,8] y)"
NORM = (
    "{ [p] p = Pow(x, two) [m] m = ReduceMean<keepdims=1>(p, axes) [e] e = Add(m, eps)"
    " [s] s = Sqrt(e) [d] d = Div(one, s) [n] n = Mul(x, d) [g] y = Mul(n, gain) }"
)
CASES: dict[str, tuple[str, dict[str, Any], float, str, str]] = {
    # graph, constants, size of the data, what is kept, why
    "an output that overflows": (
        X + "{ [a] h = Mul(x, big) [b] t = Mul(h, small) [c] y = Relu(t) }",
        {"big": 3e4, "small": 1e-4}, 3, "a b", "reaches 9e",
    ),
    "an output that comes near": (
        X + "{ [a] h = Mul(x, big) [b] t = Mul(h, small) [c] y = Relu(t) }",
        {"big": 1.2e4, "small": 1e-3}, 3, "a b", "reaches 3.6e",
    ),
    "an input that overflows": (
        X + "{ [a] h = Mul(x, small) [b] y = Relu(h) }",
        {"small": 1e-4}, 1e5, "a", "it reads 'x'",
    ),
    "what is moved about is as large": (
        X + "{ [a] h = Mul(x, big) [t] r = Transpose<perm = [0, 1]>(h) [b] y = Mul(r, small) }",
        {"big": 3e4, "small": 1e-4}, 3, "a t b", "9e",
    ),
    "a sum inside a mean": (
        X + "{ [a] m = ReduceMean<keepdims=1>(x, axes) [b] y = Sub(x, m) }",
        {"axes": [-1]}, 2e4, "a", "partial sums",
    ),
    "sums inside a product that cancel": (
        X + "{ [a] h = MatMul(x, w) [b] y = Relu(h) }",
        {"w": np.tile([[1e3], [-1e3]], (4, 8))}, 100, "a", "partial sums",
    ),
    "a norm, whatever the data": (
        X + NORM,
        {"two": 2.0, "axes": [-1], "eps": 1e-6, "one": 1.0, "gain": 1.0}, 1, "p m e s d n",
        "statistics of a norm",
    ),
    "a tensor below what fp16 resolves": (
        X + "{ [a] h = Mul(x, small) [b] t = Div(h, small) [c] y = Relu(t) }",
        {"small": 1e-3}, 1e-4, "a b", "loses",
    ),
    "a constant beyond fp16": (
        X + "{ [a] h = Div(x, big) [b] y = Relu(h) }", {"big": 1e5}, 1e4, "a", "holds 1e+05",
    ),
    "a constant that vanishes": (
        X + "{ [a] h = Abs(x) [e] e = Add(h, eps) [b] y = Div(x, e) }", {"eps": 1e-9}, 1, "e",
        "'eps' loses",
    ),
    "nothing of the kind": (
        X + "{ [a] h = MatMul(x, w) [b] y = Relu(h) }", {"w": np.eye(8)}, 10, "", "",
    ),
}  # fmt: skip


def data(size: float) -> Floats:
    """Return float32 [2,8]: one sign in a row, up to `size`."""
    rows = np.linspace(0.5, 1, 16, dtype=np.float32).reshape(2, 8)
    return rows * np.float32(size)


def constants(values: dict[str, Any]) -> dict[str, NDArray[Any]]:
    integers = {"axes": np.int64}
    return {name: np.asarray(v, integers.get(name, np.float32)) for name, v in values.items()}


@pytest.mark.parametrize("name", list(CASES))
def test_what_is_kept_is_what_its_rule_names(build: Build, prepared: Prepare, name: str) -> None:
    text, values, size, wanted, why = CASES[name]
    source = prepared(build(text, **constants(values)))
    half = to_half(source, [{"x": data(size)}])
    assert [keep.name for keep in half.kept] == wanted.split()
    assert all(why in keep.reason for keep in half.kept[:1])
    # the oracle rounds every node; fp32 is the truth
    (got,) = ReferenceEvaluator(half.prepared.model).run(None, {"x": data(size)})
    (want,) = ReferenceEvaluator(source.model).run(None, {"x": data(size)})
    off = np.abs(np.asarray(got) - want).max()
    assert off <= 2**-7 * np.abs(want).max() + 2**-7


@pytest.mark.parametrize("name", ["an output that overflows", "a constant that vanishes"])
def test_without_what_is_kept_fp16_breaks(build: Build, prepared: Prepare, name: str) -> None:
    text, values, size, _, _ = CASES[name]
    x = data(size) * (np.arange(8) > 0)  # a zero, where the divisor vanishes
    source = prepared(build(text, **constants(values)))
    with np.errstate(all="ignore"):
        (got,) = ReferenceEvaluator(narrow(source.model, [])).run(None, {"x": x})
    assert not np.isfinite(got).all()
    (sound,) = ReferenceEvaluator(to_half(source, [{"x": x}]).prepared.model).run(None, {"x": x})
    assert np.isfinite(sound).all()


def test_what_only_the_reference_finds_is_kept_with_what_it_reads(
    build: Build, prepared: Prepare
) -> None:
    text = (
        "(float[2,8] x, float[2,8] z) => (float[2,8] y) { [a] d = Sub(x, z) [b] y = Reciprocal(d) }"
    )
    source = prepared(build(text))
    x = np.full((2, 8), 1000.1, np.float32)
    half = to_half(source, [{"x": x, "z": np.full((2, 8), 1000, np.float32)}])
    assert {keep.name for keep in half.kept} == {"a", "b"}
    assert "every node is rounded" in "".join(keep.reason for keep in half.kept)


def test_a_mask_before_a_softmax_needs_no_fp32(build: Build, prepared: Prepare) -> None:
    text = (
        "(float[2,8] x, bool[2,8] seen) => (float[2,8] y)"
        "{ [m] m = Where(seen, zero, low) [a] s = Add(x, m) [s] y = Softmax(s) }"
    )
    low = np.array(np.finfo(np.float32).min, np.float32)
    source = prepared(build(text, zero=np.zeros((), np.float32), low=low))
    seen = np.arange(16).reshape(2, 8) % 3 > 0
    seen[1] = False  # a row that is masked as a whole, as padding is
    half = to_half(source, [{"x": data(5), "seen": seen}])
    (got,) = ReferenceEvaluator(half.prepared.model).run(None, {"x": data(5), "seen": seen})
    (want,) = ReferenceEvaluator(source.model).run(None, {"x": data(5), "seen": seen})
    assert not half.kept
    assert got[0] == pytest.approx(want[0], abs=2e-3) and np.isfinite(got).all()


def test_angles_of_positions_stay_fp32(build: Build, prepared: Prepare) -> None:
    text = (
        "(int64[1,4] position, float[4,8] x) => (float[4,8] y)"
        "{ [f] f = Cast<to = 1>(position) [a] a = MatMul(speed, f) [t] t = Transpose(a)"
        " [c] c = Cos(t) [b] y = Mul(x, c) }"
    )
    speed = np.geomspace(1, 1e-4, 8, dtype=np.float32)[:, None]
    source = prepared(build(text, speed=speed))
    x = np.ones((4, 8), np.float32)
    half = to_half(source, [{"position": np.arange(4)[None], "x": x}])
    assert [keep.name for keep in half.kept] == ["f", "a", "t", "c"]
    far = {"position": np.array([[2049, 4097, 30001, 32767]]), "x": x}
    (got,) = ReferenceEvaluator(half.prepared.model).run(None, far)
    (want,) = ReferenceEvaluator(source.model).run(None, far)
    assert got == pytest.approx(want, abs=2e-3)


def test_a_model_in_half_precision_is_refused(build: Build, prepared: Prepare) -> None:
    source = prepared(build("(float16[2,8] x) => (float16[2,8] y) { y = Relu(x) }"))
    with pytest.raises(InputError, match="already"):
        to_half(source, [{"x": data(1).astype(np.float16)}])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_large_weight_is_worked_through_in_pieces(axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((3000, 2000)).astype(np.float32)
    assert len(list(pieces(weight))) > 1 and np.array_equal(
        np.concatenate([*pieces(weight)]), weight
    )
    longest = np.linalg.norm(weight.astype(np.float64), axis=1 - axis).max()
    assert _longest(weight, axis) == pytest.approx(longest)

"""Residual Adds get Q/DQ on their shortcut, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import UsageError
from qgraph._graph.io.models import write_model
from qgraph._graph.rules.finding import Target
from qgraph._graph.rules.linting import lint
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.run.session import open_session
from qgraph._quantize.companions import companions_named, find_companions
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._sensitivity.report import Direction
from qgraph._steps import making
from qgraph._steps import quantize as quantizing
from qgraph._steps import sensitivity as measuring
from qgraph._steps.calibrate import calibrate
from qgraph._steps.profile import profile

Build = Callable[..., onnx.ModelProto]
HEAD = "(float[1,16,8,8] x) => (float[1,16,8,8] y)"
STRAIGHT = (
    HEAD
    + """{
  [one] a = Conv(x, w1) r = Relu(a)
  [two] b = Conv(r, w2)
  [add] s = Add(x, b)
  y = Relu(s)
}"""
)
DOWN = (
    HEAD
    + """{
  [one] a = Conv(x, w1) r = Relu(a)
  [two] b = Conv(r, w2)
  [down] d = Conv(x, w3)
  [add] s = Add(b, d)
  y = Relu(s)
}"""
)
SILU = (
    HEAD
    + """{
  [one] a = Conv(x, w1) g = Sigmoid(a) r = Mul(a, g)
  [two] b = Conv(r, w2) h = Sigmoid(b) t = Mul(b, h)
  [add] y = Add(x, t)
}"""
)
GATED = (
    HEAD
    + """{
  [one] a = Conv(x, w1) p = GlobalAveragePool(a)
  [gate] q = Conv(p, w3) g = Sigmoid(q) r = Mul(a, g)
  [two] b = Conv(r, w2)
  [add] y = Add(b, x)
}"""
)
EVEN = (
    HEAD
    + """{
  [one] a = Conv(x, w1)
  [two] b = Conv(x, w2)
  [add] y = Add(a, b)
}"""
)
APART = (
    HEAD
    + """{
  [one] a = Conv(x, w1)
  [add] y = Add(a, z)
}"""
)


def model_of(build: Build, text: str) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    used = [name for name in ("w1", "w2", "w3") if name in text]
    shape = (16, 16, 1, 1)
    weights = {name: generator.standard_normal(shape).astype(np.float32) * 0.2 for name in used}
    if "k)" in text:
        weights["k"] = np.ones(4, np.float32)
    if "z)" in text:
        weights["z"] = np.ones((16, 1, 1), np.float32)
    return build(text, **weights)


@pytest.mark.parametrize(
    ("text", "shortcut", "beside"),
    [
        (STRAIGHT, (0, "x"), "two"),
        (DOWN, (1, "d"), "two"),
        (SILU, (0, "x"), "two"),
        (GATED, (1, "x"), "two"),
    ],
)
def test_the_shortcut_is_the_branch_with_fewer_convolutions(
    build: Build, text: str, shortcut: tuple[int, str], beside: str
) -> None:
    model = model_of(build, text)
    (found,) = find_companions(model, quantizable_nodes(model)[0])
    assert (found.node.name, found.node.activations, found.beside) == ("add", (shortcut,), beside)


PYRAMID = (
    HEAD
    + """{
  [one] a = Conv(x, w1) [two] b = Conv(a, w2)
  u = Resize(b, , k)
  [lateral] d = Conv(x, w3)
  [add] y = Add(u, d)
}"""
)


@pytest.mark.parametrize("text", [EVEN, APART, PYRAMID])
def test_an_add_that_is_no_residual_is_left_alone(build: Build, text: str) -> None:
    model = model_of(build, text)
    assert find_companions(model, quantizable_nodes(model)[0]) == ()


def test_the_product_that_smoothing_puts_before_a_convolution_hides_no_shortcut(
    build: Build,
) -> None:
    text = STRAIGHT.replace("[two] b = Conv(r, w2)", "m = Mul(r, z) [two] b = Conv(m, w2)")
    model = model_of(build, text)
    (found,) = find_companions(model, quantizable_nodes(model)[0])
    assert (found.node.name, found.beside) == ("add", "two")


def test_a_float_convolution_has_no_companion(build: Build) -> None:
    model = model_of(build, STRAIGHT)
    first = quantizable_nodes(model)[0][:1]
    assert find_companions(model, first) == ()
    with pytest.raises(UsageError, match="no residual Add beside"):
        companions_named(model, first, ["add"])


@pytest.fixture
def emitted(build: Build, tmp_path: Path) -> tuple[Profiles, list[making.Quantized], Path]:
    path = tmp_path / "m.onnx"
    write_model(model_of(build, STRAIGHT), path)
    x = np.random.default_rng(1).standard_normal((4, 16, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    report, ranges = measuring.sensitivity(path, data=[tmp_path / "x.npz"])
    profiles = profile(report, cuts={"half": 0.5, "all": 1.0})
    return profiles, quantizing.quantize(path, profiles, ranges), path


def reads(model: onnx.ModelProto, name: str) -> list[str]:
    """Return the operators that give a node's inputs."""
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    (node,) = [node for node in model.graph.node if node.name == name]
    return [made.get(tensor, "input") for tensor in node.input]


def test_a_profile_names_the_companions_of_its_convolutions(
    emitted: tuple[Profiles, list[making.Quantized], Path],
) -> None:
    for item in emitted[0].profiles:
        assert item.companions == (("add",) if "two" in item.quantize else ())


def test_the_emitted_add_reads_the_shortcut_quantized_and_the_branch_untouched(
    emitted: tuple[Profiles, list[making.Quantized], Path],
) -> None:
    model = emitted[1][1].model
    assert reads(model, "add") == ["DequantizeLinear", "Conv"]
    # the shortcut and the first convolution read the same tensor: one QuantizeLinear for both
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2
    proof = emitted[1][1].proof
    assert proof is not None and proof.quantized == 2
    assert open_session(model).outputs == ("y",)


def test_without_companions_the_add_reads_what_it_read(
    emitted: tuple[Profiles, list[making.Quantized], Path],
) -> None:
    profiles, made, path = emitted
    bare = [item.model_copy(update={"companions": ()}) for item in profiles.profiles]
    ranges, _ = calibrate(path), made
    again = quantizing.quantize(path, profiles.model_copy(update={"profiles": tuple(bare)}), ranges)
    assert reads(again[1].model, "add") == ["input", "Conv"]


def test_the_shipped_detector_has_one_in_each_block_of_its_backbone() -> None:
    shipped = Path(__file__).parents[2] / "models/yolo_tiny/model.onnx"
    prepared = prepare(shipped).model
    found = find_companions(prepared, quantizable_nodes(prepared)[0])
    # one in each split–concat block of the backbone, none of those of the pyramid
    assert len(found) == 4
    assert all("/block/" in item.beside for item in found)


@pytest.mark.parametrize("engine", ["switch", "wavefront"])
def test_the_scores_of_a_convolution_are_those_of_the_model_emitted_with_its_companion(
    build: Build, tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "m.onnx"
    write_model(model_of(build, STRAIGHT), path)
    x = np.random.default_rng(1).standard_normal((1, 16, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    report, ranges = measuring.sensitivity(
        path, data=[tmp_path / "x.npz"], direction=Direction.SOLO, engine=engine
    )
    cut = profile(report)
    pair = Profile(name="pair", quantize=("two",), companions=("add",))
    alone = Profile(name="alone", quantize=("two",))
    profiles = cut.model_copy(update={"profiles": (pair, alone)})
    float_y = open_session(path).run({"x": x})["y"]
    errors = [
        float(np.mean(np.square(open_session(item.model).run({"x": x})["y"] - float_y)))
        for item in quantizing.quantize(path, profiles, ranges)
    ]
    (scored,) = [node.solo for node in report.nodes if node.name == "two"]
    assert scored is not None
    # float32 sums over 1024 elements
    assert scored.mse == pytest.approx(errors[0], rel=1e-5)
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("text", [STRAIGHT, DOWN, SILU, GATED])
def test_the_linter_finds_nothing_to_say_of_what_is_emitted(build: Build, text: str) -> None:
    """And R12 where the other branch is quantized: both go by one definition."""
    model = model_of(build, text)
    nodes = quantizable_nodes(model)[0]
    (companion,) = find_companions(model, nodes)
    add = next(node for node in model.graph.node if node.name == "add")
    ((shortcut, _),) = companion.node.activations
    for quantized, rules in ((shortcut, set()), (1 - shortcut, {"R12"})):
        linted = onnx.ModelProto()
        linted.CopyFrom(model)
        quantize_input(linted, add.name, quantized)
        findings = lint(QdqGraph(linted, Path()), Target.TENSORRT_10, ())
        assert {item.rule for item in findings if item.rule == "R12"} == rules


@pytest.mark.parametrize("quantized", [0, 1])
def test_neither_of_two_convolutions_of_one_tensor_is_a_shortcut_to_the_linter(
    build: Build, quantized: int
) -> None:
    model = model_of(build, EVEN)
    quantize_input(model, "add", quantized)
    findings = lint(QdqGraph(model, Path()), Target.TENSORRT_10, ())
    assert "R12" not in {item.rule for item in findings}


def quantize_input(model: onnx.ModelProto, name: str, index: int) -> None:
    """Put Q/DQ, not shared, on an input of a node."""
    place = next(i for i, node in enumerate(model.graph.node) if node.name == name)
    add = model.graph.node[place]
    source, scale = add.input[index], onnx.numpy_helper.from_array(np.array(1, np.float32), "scale")
    model.graph.initializer.append(scale)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.int8), "zero"))
    add.input[index] = "dq"
    model.graph.node.insert(
        place, onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["dq"])
    )
    model.graph.node.insert(
        place, onnx.helper.make_node("QuantizeLinear", [source, "scale", "zero"], ["codes"])
    )

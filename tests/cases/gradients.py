"""Gradients of a small graph by its adjoint in onnxruntime, and by what is not ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.gradient import Adjoint, adjoint
from qgraph._graph.tensors import Array, Feed

_STEP = 1e-5


@dataclass(frozen=True)
class Case:
    """A graph in ONNX's text form: `x` is differentiated, `y` is what is made of it.

    `given`: values of inputs that are not drawn; `weights`: initializers; `like`: the same in
    torch, of the inputs in their order (None: finite differences alone).
    """

    text: str
    like: Callable[..., torch.Tensor] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 21
    wanted: Sequence[str] = ("x",)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tolerance: float = 1e-4
    finite_differences: bool = True
    positive: bool = False

    def model(self) -> onnx.ModelProto:
        header = f'<ir_version: 10, opset_import: ["" : {self.opset}, "com.microsoft" : 1]>'
        made = onnx.parser.parse_model(f"{header} g {self.text}")
        for name, values in self.weights.items():
            array = np.asarray(values)
            array = array.astype(np.float32) if array.dtype == np.float64 else array
            made.graph.initializer.append(numpy_helper.from_array(array, name))
        for at, node in enumerate(made.graph.node):
            node.name = f"{node.op_type}_{at}"
        return made

    def feed(self) -> Feed:
        generator = np.random.default_rng(7)
        made: Feed = {}
        for value in self.model().graph.input:
            name = value.name
            shape = self.shapes.get(name) or [d.dim_value for d in value.type.tensor_type.shape.dim]
            drawn = generator.standard_normal(shape).astype(np.float32)
            drawn = np.abs(drawn) + np.float32(0.3) if self.positive else drawn
            made[name] = np.asarray(self.given[name]) if name in self.given else drawn
        return made


def session(model: onnx.ModelProto, *, optimized: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def with_outputs(made: Adjoint, names: Sequence[str]) -> onnx.ModelProto:
    """Return the adjoint's model with gradients as its outputs, and the forward outputs gone."""
    model = onnx.ModelProto()
    model.CopyFrom(made.model)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return model


def gradients(
    model: onnx.ModelProto, feed: Feed, seeds: Feed, wanted: Sequence[str]
) -> dict[str, Array]:
    """Return the gradients of Σ ⟨seed, output⟩ by the adjoint of `model`."""
    made = adjoint(model, outputs=list(seeds), wanted=wanted)
    assert not made.uncovered
    names = [made.gradients[name] for name in wanted]
    fed = {**feed, **{f"grad/{name}": seed for name, seed in seeds.items()}}
    running = session(with_outputs(made, names))
    read = {value.name for value in running.get_inputs()}
    found = running.run(None, {name: array for name, array in fed.items() if name in read})
    return dict(zip(wanted, found, strict=True))


def by_differences(
    model: onnx.ModelProto, feed: Feed, seeds: Feed, wanted: Sequence[str]
) -> dict[str, Array]:
    """Return the same by central differences, in float64, by ONNX's reference."""
    double = _in_double(model)
    evaluator = ReferenceEvaluator(double)
    names = [value.name for value in double.graph.output]

    def value(point: Feed) -> float:
        made = dict(zip(names, evaluator.run(None, point), strict=True))
        return float(sum((seeds[name] * made[name]).sum() for name in seeds))

    start = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in feed.items()}
    return {name: _differences(value, start, name) for name in wanted}


def _differences(value: Callable[[Feed], float], start: Feed, name: str) -> Array:
    made = np.zeros(start[name].shape)
    for place in np.ndindex(made.shape):
        sides = []
        for step in (_STEP, -_STEP):
            moved = start[name].copy()
            moved[place] += step
            sides.append(value({**start, name: moved}))
        made[place] = (sides[0] - sides[1]) / (2 * _STEP)
    return made


def _in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    del made.graph.value_info[:]
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(numpy_helper.from_array(array))
    return made


def by_torch(case: Case, feed: Feed, seeds: Feed) -> dict[str, Array]:
    """Return the same by torch.autograd, in float64."""
    assert case.like is not None
    given = {n: torch.from_numpy(np.array(a)) for n, a in feed.items()}
    given = {n: t.double() if t.is_floating_point() else t for n, t in given.items()}
    for name in case.wanted:
        given[name].requires_grad_()
    made = case.like(*given.values())
    torch.autograd.backward(made, torch.from_numpy(seeds["y"]).double())
    found: dict[str, Array] = {}
    for name in case.wanted:
        gradient = given[name].grad
        assert gradient is not None
        found[name] = gradient.numpy()
    return found


def seeds_of(model: onnx.ModelProto, feed: Feed) -> Feed:
    """Return random gradients of every float output, in its shape."""
    generator = np.random.default_rng(11)
    names = [value.name for value in model.graph.output]
    made = zip(names, session(model).run(None, feed), strict=True)
    return {n: generator.standard_normal(a.shape).astype(np.float32) for n, a in made}


def assert_close(found: Array, expected: Array, tolerance: float) -> None:
    """Compare relative to the largest entry: small ones are differences of large ones."""
    assert found.shape == expected.shape
    largest = max(float(np.abs(expected).max(initial=0)), 1e-3)
    assert float(np.abs(found - expected).max(initial=0)) <= tolerance * largest


def slopes(
    model: onnx.ModelProto, feed: Feed, seeds: Feed, found: Mapping[str, Array]
) -> dict[str, float]:
    """Return by how much Σ ⟨seed, output⟩ rises when an inner tensor moves along what was found to
    be its gradient, by one: its length, if it is the gradient. Central differences in float64, by
    onnxruntime.
    """
    double = _in_double(_movable(model, found))
    running = session(double, optimized=False)
    names = [value.name for value in double.graph.output]
    start = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in feed.items()}
    still = {f"move/{name}": np.zeros(array.shape) for name, array in found.items()}

    def value(name: str, move: Array) -> float:
        made = dict(
            zip(names, running.run(None, {**start, **still, f"move/{name}": move}), strict=True)
        )
        return float(sum((seeds[output] * made[output]).sum() for output in seeds))

    slopes: dict[str, float] = {}
    for name, gradient in found.items():
        move = _STEP * gradient.astype(np.float64) / np.linalg.norm(gradient)
        slopes[name] = (value(name, move) - value(name, -move)) / (2 * _STEP)
    return slopes


def _movable(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return `model` in which an input `move/T` is added to each inner tensor T."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    moved = {name: f"moved/{name}" for name in tensors}
    for node in model.graph.node:
        made.graph.node.append(node)
        made.graph.node[-1].input[:] = [moved.get(name, name) for name in node.input]
        for name in moved.keys() & set(node.output):
            made.graph.node.append(helper.make_node("Add", [name, f"move/{name}"], [moved[name]]))
    made.graph.input.extend(
        helper.make_tensor_value_info(f"move/{name}", TensorProto.FLOAT, None) for name in moved
    )
    return made


def check(case: Case) -> None:
    """Hold a case's gradients against torch and finite differences."""
    model, feed = case.model(), case.feed()
    seeds = seeds_of(model, feed)
    found = gradients(model, feed, seeds, case.wanted)
    oracles = [by_torch(case, feed, seeds)] if case.like else []
    if case.finite_differences:
        oracles.append(by_differences(model, feed, seeds, case.wanted))
    assert oracles
    for expected in oracles:
        for name in case.wanted:
            assert_close(found[name], expected[name], case.tolerance)

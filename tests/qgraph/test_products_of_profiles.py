"""Rotations and products of smoothing stand before what a profile quantizes, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import qgraph as api
from qgraph._graph.io.models import identify
from qgraph._quantize.emit import emit
from qgraph._quantize.profiles import NamedScheme, Profile, Profiles
from qgraph._quantize.provenance import Provenance
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._steps.profile_nodes import nodes_of
from qgraph._steps.quantize import quantize

Arrays = Mapping[str, NDArray[Any]]

SETS = {"none": (), "one": ("q",), "two": ("q", "out"), "all": ("q", "k", "down", "out")}
"""`q` and `k` read one tensor, which nothing makes; what `out` reads, `down` makes."""


class Rotated:
    """The MLP with ranges of a rotated form, and a profile for each of `SETS`."""

    def __init__(self, path: Path, data: Path, **parts: Any) -> None:
        scheme = Scheme.model_validate({"rotate": "8", **parts}, strict=False)
        self.model, self.data = api.open(path), data
        self.ranges: Ranges = api.calibrate(self.model, data=[data], scheme=scheme)
        self.feed = dict(np.load(data))
        made = tuple(Profile(name=name, quantize=nodes) for name, nodes in SETS.items())
        self.profiles = Profiles(
            schema=Profiles.SCHEMA, model=identify(path), scheme=scheme,
            source="by hand", profiles=made,
        )  # fmt: skip
        self.float = onnx.load(path)

    def made(self, **given: Any) -> dict[str, onnx.ModelProto]:
        found = quantize(self.model, self.profiles, self.ranges, **given)
        return {item.profile.name: item.model for item in found}

    def run(self, model: onnx.ModelProto, *inner: str) -> list[NDArray[np.float32]]:
        """Return outputs and inner tensors by onnxruntime, nothing of the graph changed."""
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(shown.SerializeToString(), options)
        return list(session.run(None, self.feed))


def added(model: onnx.ModelProto) -> list[str]:
    """Return which nodes are neither the MLP's nor Q/DQ."""
    names = {"q", "k", "down", "out", "Mul:qk", "Tanh:h", "Relu:r"}
    kinds = ("QuantizeLinear", "DequantizeLinear", "Cast")
    nodes = model.graph.node
    return [n.op_type for n in nodes if n.op_type not in kinds and n.name not in names]


def operands(model: onnx.ModelProto, name: str) -> list[bytes]:
    """Return the quantized weight of a node, its scale, and that of what it reads."""
    made = {output: node for node in model.graph.node for output in node.output}
    held = {item.name: item for item in model.graph.initializer}
    node = next(item for item in model.graph.node if item.name == name)
    data, weight = (made[tensor] for tensor in node.input)
    constants = (weight.input[0], weight.input[1], data.input[1])
    return [onnx.numpy_helper.to_array(held[item]).tobytes() for item in constants]


@pytest.fixture
def rotated(mlp: Path, data: Path) -> Callable[..., Rotated]:
    return lambda **parts: Rotated(mlp, data, **parts)


@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        ({}, (0, 3, 6, 9)),
        ({"name": SchemeName.FP8}, (0, 3, 6, 9)),
        # a product goes with each rotation, but for what `down` takes from `out`
        ({"smooth": "0.5"}, (0, 4, 7, 11)),
        ({"smooth": "0.5", "rotate": "none"}, (0, 1, 1, 2)),
    ],
    ids=["rotated", "fp8", "smoothed and rotated", "smoothed"],
)
def test_a_profile_has_the_products_of_its_own_nodes_and_they_are_quantized_alike(
    rotated: Callable[..., Rotated], parts: dict[str, Any], counts: Sequence[int]
) -> None:
    chain = rotated(**parts)
    models = chain.made()
    assert tuple(len(added(model)) for model in models.values()) == tuple(counts)
    form = chain.model.in_form_of(chain.ranges)
    provenance = Provenance("test", chain.ranges.scheme, form.id.sha256, "0")
    for profile in chain.profiles.profiles:
        model = models[profile.name]
        for name in profile.quantize:
            assert operands(model, name) == operands(models["all"], name)
        # as if every product stood there
        nodes, ranges = nodes_of(form, profile), chain.ranges.by_name()
        (whole,) = chain.run(emit(form.prepared, nodes, ranges, provenance))
        (own,) = chain.run(model)
        assert np.abs(own - whole).max() <= 1e-6 * np.abs(whole).max()


def test_float_nodes_compute_what_the_float_model_does_to_the_bit(
    rotated: Callable[..., Rotated],
) -> None:
    chain = rotated()
    models, before = chain.made(), chain.run(chain.float, "k")
    assert np.array_equal(chain.run(models["none"])[0], before[0])
    assert np.array_equal(chain.run(models["one"], "k")[1], before[1])
    weights = {item.name: item for item in chain.float.graph.initializer}
    for name, kept in (("one", ("wk", "wd", "wo")), ("two", ("wk", "wd"))):
        found = {item.name: item for item in models[name].graph.initializer}
        assert all(found[weight] == weights[weight] for weight in kept)


def test_so_do_those_in_fp16(rotated: Callable[..., Rotated]) -> None:
    chain = rotated()
    models = chain.made(dtype="fp16", data=[chain.data])
    assert [len(added(model)) for model in models.values()] == [0, 3, 6, 9]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in chain.float.graph.initializer}
    (node,) = (item for item in models["one"].graph.node if item.name == "k")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in models["one"].graph.initializer}
    assert node.input[0].startswith("x") and node.input[1] in held
    assert np.array_equal(held[node.input[1]], weights["wk"].astype(np.float16))


def test_readers_of_two_formats_share_one_rotation(rotated: Callable[..., Rotated]) -> None:
    chain = rotated()
    fp8 = chain.ranges.scheme.model_copy(update={"name": SchemeName.FP8})
    profile = Profile(name="mixed", quantize=("q", "k"), formats={"k": "fp8"})
    changes = {"profiles": (profile,), "schemes": (NamedScheme(name="fp8", scheme=fp8),)}
    chain.profiles = chain.profiles.model_copy(update=changes)
    (model,) = chain.made().values()
    assert added(model) == ["Reshape", "MatMul", "Reshape"]
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2 and len({node.input[0] for node in quantizers}) == 1

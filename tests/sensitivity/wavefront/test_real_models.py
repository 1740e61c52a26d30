"""The wavefront engine gives the switch engine's scores on models as they come out of exporters."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qgraph
from qgraph._graph.tensors import Array
from qgraph._sensitivity.report import Sensitivity

ROOT = Path(__file__).parents[3]
TINY = ROOT / "models/qwen2_5_vl_tiny"


def scores(
    model: Path, data: Sequence[Path], engine: str, samples: int = 2, include: Sequence[str] = ()
) -> Sensitivity:
    report, _ = qgraph.sensitivity(
        model, data=list(data), samples=samples, engine=engine, include=include, fast=True
    )
    return report


def assert_same(model: Path, data: Sequence[Path], include: Sequence[str] = ()) -> None:
    wavefront, switch = (
        scores(model, data, engine, include=include) for engine in ("wavefront", "switch")
    )
    # The same operators on the same numbers: equal to the last bit.
    assert wavefront.nodes == switch.nodes
    assert wavefront.groups == switch.groups
    assert wavefront.baseline == switch.baseline


@pytest.mark.slow
@pytest.mark.parametrize("with_past", [True, False])
def test_the_tiny_qwen_with_and_without_cache(tmp_path: Path, with_past: bool) -> None:  # noqa: FBT001
    qgraph.export(TINY / "outliers", tmp_path / "model", with_past=with_past)
    shutil.copytree(TINY / "data", tmp_path / "data")
    data = [tmp_path / "data/calibration.txt", tmp_path / "data/calibration.jsonl"]
    assert_same(tmp_path / "model/model.onnx", data)


class Net:
    """A convolutional network in the making."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, array: Array) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_y"], name, **attributes))
        return f"{name}_y"

    def conv(self, x: str, channels: int, outputs: int, stride: int = 1) -> str:
        weight = self.rng.standard_normal((outputs, channels, 3, 3)).astype(np.float32) / 6
        bias = self.rng.standard_normal(outputs).astype(np.float32) / 6
        names = (self.constant(weight), self.constant(bias))
        return self.node("Conv", x, *names, strides=[stride, stride], pads=[1, 1, 1, 1])

    def save(self, path: Path, output: str, rank: int, batch: str | int = "batch") -> None:
        kind = onnx.TensorProto.FLOAT
        shape: list[str | int | None] = [batch, 3, 16, 16]
        inputs = [helper.make_tensor_value_info("x", kind, shape)]
        result: list[str | int | None] = [batch, *[None] * (rank - 1)]
        outputs = [helper.make_tensor_value_info(output, kind, result)]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def residual_network(path: Path, batch: str | int = "batch") -> None:
    """Stem, two residual blocks (one with a strided shortcut), pooling, classifier."""
    net = Net()
    x = net.node("Relu", net.conv("x", 3, 8))
    y = net.conv(net.node("Relu", net.conv(x, 8, 8)), 8, 8)
    x = net.node("Relu", net.node("Add", x, y))
    y = net.conv(net.node("Relu", net.conv(x, 8, 16, 2)), 16, 16)
    x = net.node("Relu", net.node("Add", net.conv(x, 8, 16, 2), y))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    weight = net.constant(net.rng.standard_normal((10, 16)).astype(np.float32))
    bias = net.constant(np.zeros(10, np.float32))
    net.save(path, net.node("Gemm", pooled, weight, bias, transB=1), 2, batch)


def detector(path: Path) -> None:
    """Split and concat, a pyramid with upsampling, two scales joined in one output."""
    net = Net()
    x = net.conv("x", 3, 8, 2)
    x = net.node("Mul", x, net.node("Sigmoid", x))
    halves = helper.make_node("Split", [x], ["left", "right"], "Split", axis=1, num_outputs=2)
    net.nodes.append(halves)
    x = net.node("Concat", "left", net.conv("right", 4, 4), axis=1)
    low = net.conv(x, 8, 8, 2)
    empty, scales = net.constant(np.zeros(0, np.float32)), np.array([1, 1, 2, 2], np.float32)
    up = net.node("Resize", low, empty, net.constant(scales), mode="nearest")
    high = net.conv(net.node("Concat", x, up, axis=1), 16, 6)
    flat = np.array([0, 6, -1], np.int64)
    parts = [net.node("Reshape", t, net.constant(flat)) for t in (high, net.conv(low, 8, 6))]
    net.save(path, net.node("Concat", *parts, axis=2), 3)


def images(path: Path, count: int = 2) -> Path:
    rng = np.random.default_rng(1)
    np.savez(path, x=rng.standard_normal((count, 3, 16, 16)).astype(np.float32))
    return path


@pytest.mark.parametrize("batch", ["batch", 1])
def test_a_residual_network(tmp_path: Path, batch: str | int) -> None:
    residual_network(tmp_path / "m.onnx", batch)
    assert_same(tmp_path / "m.onnx", [images(tmp_path / "d.npz")])


def test_a_detector(tmp_path: Path) -> None:
    detector(tmp_path / "m.onnx")
    assert_same(tmp_path / "m.onnx", [images(tmp_path / "d.npz")], ["Conv"])


def test_an_attention_block(tmp_path: Path) -> None:
    """A vision transformer's shape: patches, q/k/v, softmax, GELU, class token."""
    net = Net()
    x = net.node("Transpose", net.node("Flatten", net.conv("x", 3, 8, 4), axis=1), perm=[0, 1])
    x = net.node("Reshape", x, net.constant(np.array([0, 16, 8], np.int64)))

    def linear(source: str, inputs: int, outputs: int) -> str:
        w = net.rng.standard_normal((inputs, outputs)).astype(np.float32) / inputs**0.5
        return net.node("MatMul", source, net.constant(w))

    q, k, v = (linear(x, 8, 8) for _ in range(3))
    scaled = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
    mixed = net.node("MatMul", net.node("Softmax", scaled, axis=-1), v)
    x = net.node("Add", x, linear(mixed, 8, 8))
    x = net.node("Add", x, linear(net.node("Gelu", linear(x, 8, 32)), 32, 8))
    axis = net.constant(np.array([1], np.int64))
    logits = linear(net.node("ReduceMean", x, axis, keepdims=0), 8, 4)
    net.save(tmp_path / "m.onnx", logits, 2)
    assert_same(tmp_path / "m.onnx", [images(tmp_path / "d.npz")])


def test_samples_of_different_lengths(tmp_path: Path) -> None:
    detector(tmp_path / "m.onnx")
    folder = tmp_path / "data"
    folder.mkdir()
    model = onnx.load(tmp_path / "m.onnx")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    onnx.save(model, tmp_path / "m.onnx")
    for index, size in enumerate((16, 32)):
        rng = np.random.default_rng(index)
        np.savez(folder / f"{index}.npz", x=rng.standard_normal((1, 3, size, size), np.float32))
    assert_same(tmp_path / "m.onnx", [folder], ["Conv"])

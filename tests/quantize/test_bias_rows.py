"""Emitted models load in onnxruntime as it is installed, and compute what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.nodes import quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.session import Semantics, open_session
from qgraph._quantize.proof import ProofError, prove

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Quantized = Callable[..., onnx.ModelProto]
Weight = Callable[..., NDArray[np.float32]]

LINEAR = "{ [a] p = MatMul(x, w) y = Add(p, c) }"
SWAPPED = "{ [a] p = MatMul(x, w) y = Add(c, p) }"
ATTENTION = """{ [q] q0 = MatMul(x, w) q1 = Add(q0, c) [k] k0 = MatMul(x, v) k1 = Add(k0, c)
  kt = Transpose<perm = [0, 2, 1]>(k1) s = MatMul(q1, kt) p = Softmax(s) y = MatMul(p, q1) }"""
SHAPES = ["1,4,32", "2,3,4,32", "N,4,32", "6,32"]


def case(
    build: Build, prepared: Prepare, weight: Weight, body: str, *, shape: str, opset: int
) -> PreparedModel:
    text = f"(float[{shape}] x) => (float[{shape}] y) {body}"
    weights = {"w": weight(32, 32), "v": weight(32, 32, seed=1), "c": weight(32, seed=2)}
    read = {name: array for name, array in weights.items() if f"{name})" in body or name == "c"}
    return prepared(build(text, opset=opset, **read))


@pytest.mark.parametrize("opset", [13, 17, 20, 21, 23, 26])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("body", [LINEAR, SWAPPED])
def test_a_quantized_linear_of_any_shape_loads_with_default_optimization(
    build: Build, prepared: Prepare, weight: Weight, quantized: Quantized,
    body: str, shape: str, opset: int,
) -> None:  # fmt: skip
    source = case(build, prepared, weight, body, shape=shape, opset=opset)
    model = quantized(source, ["a"])
    assert prove(model, source.model, quantizable_nodes(source.model)[0]).quantized == 1
    onnx.checker.check_model(model, full_check=True)
    sizes = [int(size) if size.isdigit() else 2 for size in shape.split(",")]
    feed = {"x": np.random.default_rng(3).standard_normal(sizes).astype(np.float32)}
    # no wrapper of ours: what a person gets who opens the file
    plain = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    exact = open_session(model, semantics=Semantics.EXACT).run(feed)["y"]
    assert exact.shape == tuple(sizes)
    # another order of sums of 32 products, of magnitude 10
    assert np.allclose(plain.run(None, feed)[0], exact, atol=1e-4)


@pytest.mark.parametrize("opset", [21, 24])
def test_projections_of_attention_that_share_a_bias_load(
    build: Build, prepared: Prepare, weight: Weight, quantized: Quantized, opset: int
) -> None:
    source = case(build, prepared, weight, ATTENTION, shape="1,4,32", opset=opset)
    model = quantized(source, ["q", "k"])
    rows = [item.name for item in model.graph.initializer if list(item.dims) == [1, 32]]
    assert rows == ["c/row"]
    assert "c" not in {item.name for item in model.graph.initializer}
    ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_bias_that_a_float_node_reads_too_stays_there(
    build: Build, prepared: Prepare, weight: Weight, quantized: Quantized
) -> None:
    source = case(build, prepared, weight, ATTENTION, shape="1,4,32", opset=21)
    model = quantized(source, ["q"])
    read = {node.input[0]: node.input[1] for node in model.graph.node if node.op_type == "Add"}
    assert read == {"q0": "c/row", "k0": "c"}


def test_the_product_of_a_vector_keeps_its_bias(
    build: Build, prepared: Prepare, weight: Weight, quantized: Quantized
) -> None:
    source = case(build, prepared, weight, LINEAR, shape="32", opset=21)
    (add,) = (node for node in quantized(source, ["a"]).graph.node if node.op_type == "Add")
    assert add.input[1] == "c"


def test_a_row_with_other_values_breaks_the_proof(
    build: Build, prepared: Prepare, weight: Weight, quantized: Quantized
) -> None:
    source = case(build, prepared, weight, LINEAR, shape="1,4,32", opset=21)
    model = quantized(source, ["a"])
    (row,) = (item for item in model.graph.initializer if item.name == "c/row")
    row.CopyFrom(onnx.numpy_helper.from_array(weight(1, 32, seed=9), "c/row"))
    with pytest.raises(ProofError, match="rule 2"):
        prove(model, source.model, quantizable_nodes(source.model)[0])

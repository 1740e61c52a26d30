"""Tolerances of golden outputs, against arithmetic that does round in between: onnx.reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import inputs_of
from qgraph._handoff.golden import golden_cases
from qgraph._handoff.rounding import with_rounding_noise

WIDTH, DEPTH = 64, 6


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """An fp16 graph of INT8 products with fp16 scales, a residual stream, and one float product."""
    rng = np.random.default_rng(0)
    constants, nodes, stream = [], [], "x"

    def constant(name: str, values: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    constant("as", np.array(0.03, np.float16))
    constant("az", np.array(0, np.int8))
    for i in range(DEPTH):
        constant(f"w{i}", rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8))
        constant(f"s{i}", np.full(WIDTH, 2e-3, np.float16))
        constant(f"z{i}", np.zeros(WIDTH, np.int8))
        nodes += [
            helper.make_node("QuantizeLinear", [stream, "as", "az"], [f"q{i}"], f"q{i}"),
            helper.make_node("DequantizeLinear", [f"q{i}", "as", "az"], [f"a{i}"], f"a{i}"),
            helper.make_node("DequantizeLinear", [f"w{i}", f"s{i}", f"z{i}"], [f"d{i}"], f"d{i}",
                             axis=1),
            helper.make_node("MatMul", [f"a{i}", f"d{i}"], [f"m{i}"], f"m{i}"),
            helper.make_node("Tanh", [f"m{i}"], [f"t{i}"], f"t{i}"),
            helper.make_node("Add", [stream, f"t{i}"], [f"r{i}"], f"r{i}"),
        ]  # fmt: skip
        stream = f"r{i}"
    constant("head", rng.standard_normal((WIDTH, 32)).astype(np.float16))
    nodes.append(helper.make_node("MatMul", [stream, "head"], ["y"], "head"))
    kind = TensorProto.FLOAT16
    x = helper.make_tensor_value_info("x", kind, [4, WIDTH])
    y = helper.make_tensor_value_info("y", kind, [4, 32])
    graph = helper.make_graph(nodes, "half", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


def rms(difference: NDArray[np.generic]) -> float:
    return float(np.sqrt(np.mean(np.square(difference.astype(np.float64)))))


def test_an_fp16_engine_that_rounds_every_result_is_within_the_tolerance(half: Path) -> None:
    """onnxruntime's CPU rounds nothing between the nodes of an fp16 graph; numpy rounds it all."""
    model = onnx.load(half)
    feed = {"x": np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float16)}
    (case,) = golden_cases(half, None, inputs_of(model), feed)
    (allowed,) = case.tolerances
    (engine,) = ReferenceEvaluator(model).run(None, feed)
    found = rms(np.asarray(engine, np.float64) - case.outputs["y"])
    assert 0 < found <= allowed.rms
    assert allowed.rms < 0.2 * rms(case.outputs["y"])  # and it still says something
    # a scale that is 10 % off is no rounding
    scale = next(t for t in model.graph.initializer if t.name == "s2")
    scale.CopyFrom(numpy_helper.from_array(np.full(WIDTH, 2.2e-3, np.float16), "s2"))
    (wrong,) = ReferenceEvaluator(model).run(None, feed)
    assert rms(np.asarray(wrong, np.float64) - case.outputs["y"]) > allowed.rms


@pytest.mark.parametrize("opset", [21, 22, 24])
def test_rounding_is_noise_of_one_step_and_leaves_shapes_alone(half: Path, opset: int) -> None:
    model = onnx.load(half)
    model.opset_import[0].version = opset
    noisy = with_rounding_noise(model)
    onnx.checker.check_model(noisy, full_check=True)
    kinds = [node.op_type for node in noisy.graph.node]
    # every product, Tanh and Add but what the graph hands out; Q/DQ is exact
    assert kinds.count("Dropout") == 3 * DEPTH
    x = np.random.default_rng(2).standard_normal((4, WIDTH)).astype(np.float16)
    exact = open_session(model).run({"x": x})["y"]
    found = open_session(noisy).run({"x": x})["y"]
    assert 0 < rms(found.astype(np.float64) - exact) < 0.2 * rms(exact)
    assert [node.op_type for node in model.graph.node].count("Mul") == 0


@pytest.mark.parametrize("opset", [10, 11, 12, 13, 21, 22])
def test_products_of_any_opset_that_quantizes_are_off_by_half_a_step(opset: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    m (float[N,1] x) => (float[N,1] y) <float[1,1] w = {{1}}> {{ [mm] y = MatMul(x, w) }}"""
    noisy = with_rounding_noise(onnx.parser.parse_model(text))
    onnx.checker.check_model(noisy, full_check=True)
    found = open_session(noisy).run({"x": np.ones((4096, 1), np.float32)})["y"] - 1
    # as large as an error that is even in ±2⁻¹¹; so many draws tell it to a few percent
    assert rms(found) == pytest.approx(2.0**-11 / 3**0.5, rel=0.05)
    assert abs(found.mean()) < 0.05 * rms(found)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_an_input_without_axes_is_jittered_like_others(tmp_path: Path, kind: int) -> None:
    values = [helper.make_tensor_value_info(name, kind, dims) for name, dims in
              (("x", [4, 8]), ("t", []), ("y", [4, 8]))]  # fmt: skip
    graph = helper.make_graph([helper.make_node("Mul", ["x", "t"], ["y"], "m")], "g",
                              values[:2], values[2:])  # fmt: skip
    path = tmp_path / "scaled.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    feed = {"x": np.ones((4, 8), dtype), "t": np.array(3, dtype)}
    (case,) = golden_cases(path, path, inputs_of(onnx.load(path)), feed)
    assert case.tolerances[0].measured_rms > 0


DECODER = """
<ir_version: 9, opset_import: ["" : 17]>
decoder (int64[batch, sequence] input_ids, int64[sequence] cache_position, int64 last,
         float[batch, 1, past, 4] past_key_values_0)
      => (float[batch, sequence, 4] logits, float[batch, 1, total, 4] present_0)
<float[8, 4] table, int64[1] one = {1}> {
  positions = Cast <to = 1> (cache_position)
  rows = Gather (table, input_ids)
  columns = Unsqueeze (positions, one)
  scale = Cast <to = 1> (last)
  moved = Add (rows, columns)
  logits = Mul (moved, scale)
  key = Unsqueeze (rows, one)
  present_0 = Concat <axis = 2> (past_key_values_0, key)
}
"""


def test_a_step_of_decoding_goes_on_from_the_last_position(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(DECODER)
    table = np.arange(32, dtype=np.float32).reshape(8, 4)
    model.graph.initializer.insert(0, numpy_helper.from_array(table, "table"))
    path = tmp_path / "decoder.onnx"
    onnx.save(model, path)
    feed = {
        "input_ids": np.array([[1, 2, 3]]),
        "cache_position": np.arange(3),
        "last": np.array(1),
        "past_key_values_0": np.zeros((1, 1, 0, 4), np.float32),
    }
    _, decode = golden_cases(path, None, inputs_of(model), feed)
    assert decode.feed["cache_position"].tolist() == [3]
    assert decode.feed["last"].tolist() == 1
    assert decode.feed["past_key_values_0"].shape == (1, 1, 3, 4)


def test_what_an_encoder_gave_stays_in_a_step_of_decoding(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    d (float[1,S,4] inputs_embeds, float[1,E,4] encoder_hidden_states,
       float[1,P,4] past_key_values_0, float[1,E,4] past_key_values_1)
       => (float[1,S,4] logits, float[1,Q,4] present_0)
    { present_0 = Concat <axis = 1> (past_key_values_0, inputs_embeds)
      turned = Transpose <perm = [0, 2, 1]> (past_key_values_1)
      met = MatMul (inputs_embeds, turned) logits = MatMul (met, encoder_hidden_states) }"""
    path = tmp_path / "decoder.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    draw = np.random.default_rng(0).standard_normal
    sizes = {
        "inputs_embeds": 3, "encoder_hidden_states": 5, "past_key_values_0": 0,
        "past_key_values_1": 5,
    }  # fmt: skip
    feed = {name: draw((1, size, 4)).astype(np.float32) for name, size in sizes.items()}
    _, decode = golden_cases(path, None, inputs_of(onnx.load(path)), feed)
    assert {name: array.shape[1] for name, array in decode.feed.items()} == {
        "inputs_embeds": 1, "encoder_hidden_states": 5, "past_key_values_0": 3,
        "past_key_values_1": 5,
    }  # fmt: skip
    assert decode.outputs["logits"] == pytest.approx(
        feed["inputs_embeds"][:, -1:]
        @ feed["past_key_values_1"].transpose(0, 2, 1)
        @ feed["encoder_hidden_states"],
        rel=1e-5,
    )

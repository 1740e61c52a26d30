"""Each rule of the proof, broken on a model that kept them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._quantize.proof import Proof, ProofError, prove
from qgraph._quantize.scheme import Scheme

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
Quantized = Callable[..., onnx.ModelProto]
Weight = Callable[..., NDArray[np.float32]]

NET = (
    "(float[N,8] x) => (float[N,6] y, float[N,6] z)"
    "{ [a] h = Gemm(x, w, bias) [act] y = Relu(h) [b] z = MatMul(x, v) }"
)


@dataclass
class Case:
    """A source and its emitted model, in which `a` is quantized and `b` is not."""

    source: onnx.ModelProto
    emitted: onnx.ModelProto
    nodes: list[QuantizableNode]
    data_type: int

    def node(self, name: str) -> onnx.NodeProto:
        found: onnx.NodeProto
        (found,) = (item for item in self.emitted.graph.node if item.name == name)
        return found

    def made_by(self, tensor: str) -> onnx.NodeProto:
        found: onnx.NodeProto
        (found,) = (item for item in self.emitted.graph.node if tensor in item.output)
        return found

    def weight_dq(self) -> onnx.NodeProto:
        return self.made_by(self.node("a").input[1])

    def data_dq(self) -> onnx.NodeProto:
        return self.made_by(self.node("a").input[0])

    def quantizer(self) -> onnx.NodeProto:
        return self.made_by(self.data_dq().input[0])

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Set an initializer, new or old."""
        for item in self.emitted.graph.initializer:
            if item.name == name:
                item.CopyFrom(onnx.numpy_helper.from_array(array, name))
                return name
        self.emitted.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def prove(self) -> Proof:
        return prove(self.emitted, self.source, self.nodes, self.data_type)

    def breaks(self, rule: int, subject: str) -> None:
        with pytest.raises(ProofError, match=rf"rule {rule} of the proof") as caught:
            self.prove()
        assert repr(subject) in caught.value.message


@pytest.fixture
def case(
    build: Build, prepared: Prepare, quantized: Quantized, weight: Weight, scheme: Scheme
) -> Case:
    weights = {"w": weight(8, 6), "v": weight(8, 6, seed=1), "bias": weight(6)}
    source = prepared(build(NET, **weights))
    nodes = [item for item in quantizable_nodes(source.model)[0] if item.name == "a"]
    emitted = quantized(source, ["a"], scheme)
    return Case(source.model, emitted, nodes, scheme.grid.data_type)


def test_a_good_model_is_proved_with_its_counts(case: Case) -> None:
    assert case.prove() == Proof(quantized=1, untouched=2, activations=1)


def test_rule_1_notices_float_data(case: Case) -> None:
    case.node("a").input[0] = "x"
    case.breaks(1, "a")


def test_rule_1_notices_a_float_weight(case: Case) -> None:
    case.node("a").input[1] = case.constant("w", np.ones((8, 6), np.float32))
    case.breaks(1, "a")


def test_rule_1_notices_the_data_of_another_tensor(case: Case) -> None:
    case.emitted.graph.input.append(
        onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ["N", 8])
    )
    case.quantizer().input[0] = "other"
    case.breaks(1, "a")


def test_rule_1_notices_a_weight_of_another_shape(case: Case) -> None:
    case.constant(case.weight_dq().input[0], np.ones((9, 6), np.int8))
    case.breaks(1, "a")


def test_rule_1_notices_a_weight_of_another_type(case: Case) -> None:
    case.constant(case.weight_dq().input[0], np.ones((8, 6), np.uint8))
    case.breaks(1, "a")


def test_rule_1_notices_a_weight_that_is_one_step_off(case: Case) -> None:
    name = case.weight_dq().input[0]
    held = next(item for item in case.emitted.graph.initializer if item.name == name)
    codes = np.frombuffer(held.raw_data, np.uint8).copy()
    # the next code is the next number, in both types
    codes[7] = codes[7] + 1 if codes[7] & 127 < 64 else codes[7] - 1
    held.raw_data = codes.tobytes()
    case.breaks(1, "a")


def test_rule_2_notices_an_excluded_node_that_reads_quantized_data(case: Case) -> None:
    case.node("b").input[0] = case.node("a").input[0]
    case.breaks(2, "b")


def test_rule_2_notices_an_excluded_node_that_reads_another_tensor(case: Case) -> None:
    case.node("b").input[1] = case.constant("u", np.ones((8, 6), np.float32))
    case.breaks(2, "b")


def test_rule_2_notices_a_quantized_bias(case: Case) -> None:
    bias = case.node("a").input[2]
    dq = onnx.helper.make_node("DequantizeLinear", ["i", "s", "z"], ["o"], name="bias_dq")
    case.emitted.graph.node.append(dq)
    assert bias == "bias"
    case.node("a").input[2] = "o"
    case.breaks(2, "a")


def test_rule_2_notices_a_bias_that_went(case: Case) -> None:
    del case.node("a").input[2]
    case.breaks(2, "a")


def test_rule_3_notices_another_reader_of_a_quantizelinear(case: Case) -> None:
    cast = onnx.helper.make_node("Cast", [case.quantizer().output[0]], ["c"], to=1, name="spy")
    case.emitted.graph.node.append(cast)
    case.breaks(3, case.quantizer().name)


def test_rule_3_notices_a_quantizelinear_that_is_an_output(case: Case) -> None:
    case.emitted.graph.output.append(
        onnx.helper.make_tensor_value_info(
            case.quantizer().output[0], onnx.TensorProto.INT8, ["N", 8]
        )
    )
    case.breaks(3, case.quantizer().name)


def test_rule_3_notices_a_second_quantizelinear_of_a_tensor(case: Case) -> None:
    for kind, source, output in (("Quantize", "x", "q2"), ("Dequantize", "q2", "d2")):
        constants = case.quantizer().input[1:]
        case.emitted.graph.node.append(
            onnx.helper.make_node(f"{kind}Linear", [source, *constants], [output], name=output)
        )
    case.breaks(3, "x")


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_rule_4_notices_a_scale_that_is_not_positive_and_finite(case: Case, value: float) -> None:
    case.constant(case.quantizer().input[1], np.array(value, np.float32))
    case.breaks(4, case.quantizer().name)


def test_rule_4_notices_one_bad_channel(case: Case) -> None:
    case.constant(case.weight_dq().input[1], np.array([1, 1, 0, 1, 1, 1], np.float32))
    case.breaks(4, case.weight_dq().name)


@pytest.mark.parametrize("zero", [np.int8(1), np.uint8(0)])
def test_rule_4_notices_another_zero_point(case: Case, zero: np.generic) -> None:
    case.constant(case.quantizer().input[2], np.asarray(zero))
    case.breaks(4, case.quantizer().name)


def test_rule_4_notices_a_missing_zero_point(case: Case) -> None:
    del case.quantizer().input[2]
    case.breaks(4, case.quantizer().name)


def test_rule_4_notices_a_scale_that_is_computed(case: Case) -> None:
    case.quantizer().input[1] = "x"
    case.breaks(4, case.quantizer().name)


def test_rule_5_notices_a_weight_scale_of_another_length(case: Case) -> None:
    case.constant(case.weight_dq().input[1], np.ones(8, np.float32))
    case.breaks(5, "a")


def test_rule_5_notices_one_scale_for_all_channels(case: Case) -> None:
    case.constant(case.weight_dq().input[1], np.ones((), np.float32))
    del case.weight_dq().attribute[:]
    case.breaks(5, "a")


def test_rule_5_notices_the_wrong_axis(case: Case) -> None:
    case.weight_dq().attribute[0].i = 0
    case.breaks(5, "a")


def test_rule_5_notices_an_activation_scale_per_axis(case: Case) -> None:
    scale, zero = case.quantizer().input[1:3]
    case.constant(scale, np.ones(8, np.float32))
    kind = onnx.helper.tensor_dtype_to_np_dtype(case.data_type)
    case.constant(zero, np.zeros(8, kind))
    case.breaks(5, case.quantizer().name)


def test_rule_6_notices_a_node_that_is_gone(case: Case) -> None:
    case.node("act").name = "other"
    case.breaks(6, "act")


def test_rule_6_notices_a_node_that_became_another(case: Case) -> None:
    case.node("act").op_type = "Abs"
    case.breaks(6, "act")


def test_rule_7_notices_a_scale_of_another_float_type(case: Case) -> None:
    # 1/16 is a float16 and a float32, so nothing but the type is wrong
    case.constant(case.data_dq().input[1], np.asarray(1 / 16, np.float16))
    case.breaks(7, "a")

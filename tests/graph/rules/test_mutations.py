"""Each rule, broken in turn on a good model: the linter names exactly that rule and node."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qgraph._graph.rules.finding import Severity, Target
from qgraph._graph.rules.fp8 import without_fp8_kernel
from qgraph._graph.rules.linting import RULES, lint
from qgraph._graph.rules.qdq_graph import QdqGraph
from qgraph._graph.rules.support import VERSIONS, operator_table

if TYPE_CHECKING:
    from tests.graph.rules.conftest import Draft
else:
    Draft = object

WIDTH = 128
FP8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
Mutation = Callable[[Draft], None]
E, W, A = Severity.ERROR, Severity.WARNING, Severity.ADVICE


def zero_scale(draft: Draft) -> None:
    draft.tensors["w1_scale"][7] = 0


def infinite_scale(draft: Draft) -> None:
    draft.tensors["w1_scale"][7] = np.inf


def computed_scale(draft: Draft) -> None:
    draft.add("ReduceMax", "x", "seen", keepdims=0)
    draft.nodes.insert(0, draft.nodes.pop())
    draft.node("w1_DQ").input[1] = "seen"
    draft.tensors["w1_zero"] = np.array(0, np.int8)


def asymmetric(draft: Draft) -> None:
    draft.tensors["w2_zero"][3] = 5


def zero_point_of_another_shape(draft: Draft) -> None:
    draft.tensors["w2_zero"] = np.zeros(3, np.int8)


def no_zero_point(draft: Draft) -> None:
    del draft.node("w1_DQ").input[2:]


def unsigned_by_default(draft: Draft) -> None:
    del draft.node("h_Q").input[2:]
    del draft.node("h_DQ").input[2:]


def activation_per_axis(draft: Draft) -> None:
    draft.tensors["h_scale"] = np.full(WIDTH, 0.02, np.float32)
    draft.tensors["h_zero"] = np.zeros(WIDTH, np.int8)


def wrong_axis(draft: Draft) -> None:
    draft.node("w1_DQ").attribute[0].i = 0


def too_few_scales(draft: Draft) -> None:
    draft.tensors["w1_scale"] = np.full(3, 0.01, np.float32)
    draft.tensors["w1_zero"] = np.zeros(3, np.int8)


def scale_of_another_type(draft: Draft) -> None:
    draft.tensors["w2_scale"] = draft.tensors["w2_scale"].astype(np.float16)


def cast_to_quantize(draft: Draft) -> None:
    draft.add("Cast", "x", "narrow", to=TensorProto.FLOAT16)
    draft.add("Cast", "narrow", "wide", to=TensorProto.FLOAT)
    draft.nodes[:] = [*draft.nodes[-2:], *draft.nodes[:-2]]
    draft.node("x_Q").input[0] = "wide"
    draft.add("Cast", "first", "back", to=TensorProto.FLOAT16)
    draft.add("Cast", "back", "again", to=TensorProto.FLOAT)
    at = draft.nodes.index(draft.node("h"))
    draft.nodes[:] = [*draft.nodes[:at], *draft.nodes[-2:], *draft.nodes[at:-2]]
    draft.node("h").input[0] = "again"


def integer_bias(draft: Draft) -> None:
    draft.constant("b_q", np.ones(WIDTH, np.int32))
    draft.constant("b_scale", np.full(WIDTH, 0.01, np.float32))
    draft.add("DequantizeLinear", "b_q b_scale", "b_DQ", axis=0)
    draft.add("Add", "last b_DQ", "biased")
    draft.nodes.append(draft.nodes.pop(-1))
    draft.outputs.append("biased")


def quantized_scalar(draft: Draft) -> None:
    draft.add("ReduceMax", "sum", "peak", keepdims=0)
    draft.quantized("peak")
    draft.outputs.append("peak_DQ")


def integer_operator(draft: Draft) -> None:
    draft.constant("wi", np.ones((WIDTH, WIDTH), np.int8))
    draft.add("QuantizeLinear", "gate x_scale x_zero", "gate_Q")
    draft.add("MatMulInteger", "gate_Q wi", "whole")
    draft.outputs.append("whole")


def one_side_quantized(draft: Draft) -> None:
    draft.remove("h_Q", "h_DQ")
    draft.node("second").input[0] = "h"


def second_quantizer(draft: Draft) -> None:
    draft.quantized("x", "again")
    draft.add("Neg", "again_DQ", "negative")
    draft.outputs.append("negative")


def both_branches(draft: Draft) -> None:
    at = draft.nodes.index(draft.node("sum"))
    rest = draft.nodes[at:]
    draft.nodes = draft.nodes[:at]
    draft.quantized("second")
    draft.nodes += rest
    draft.node("sum").input[:] = ["second_DQ", "x_DQ"]


def wrong_branch(draft: Draft) -> None:
    at = draft.nodes.index(draft.node("sum"))
    rest = draft.nodes[at:]
    draft.nodes = draft.nodes[:at]
    draft.quantized("second")
    draft.nodes += rest
    draft.node("sum").input[0] = "second_DQ"


def wrong_branch_behind_a_bias(draft: Draft) -> None:
    """As ModelOpt leaves transformers: the GEMM, its bias, Q/DQ, and then the residual Add."""
    at = draft.nodes.index(draft.node("sum"))
    rest = draft.nodes[at:]
    draft.nodes = draft.nodes[:at]
    draft.constant("bias", np.ones(WIDTH, np.float32))
    draft.add("Add", "second bias", "biased")
    draft.quantized("biased")
    draft.nodes += rest
    draft.node("sum").input[0] = "biased_DQ"


def attention(draft: Draft) -> None:
    at = draft.nodes.index(draft.node("product"))
    rest = draft.nodes[at:]
    draft.nodes = draft.nodes[:at]
    draft.quantized("turned")
    draft.nodes += rest
    draft.node("product").input[1] = "turned_DQ"


def constant_weight(draft: Draft) -> None:
    value = numpy_helper.from_array(draft.tensors.pop("w1_q"))
    draft.add("Constant", "", "w1_q", value=value)
    draft.nodes.insert(0, draft.nodes.pop())


def constant_scale(draft: Draft) -> None:
    value = numpy_helper.from_array(draft.tensors.pop("w1_scale"))
    draft.add("Constant", "", "w1_scale", value=value)
    draft.nodes.insert(0, draft.nodes.pop())


def newest_opset(draft: Draft) -> None:
    draft.opset = 26


def custom_domain(draft: Draft) -> None:
    draft.nodes.append(helper.make_node("Special", ["sum"], ["odd"], "odd", domain="mine"))
    draft.outputs.append("odd")


def unlisted_operator(draft: Draft) -> None:
    draft.add("Det", "product", "det")
    draft.outputs.append("det")


def unlisted_type(draft: Draft) -> None:
    draft.add("Shape", "sum", "shape")
    draft.add("CumSum", "shape shape", "running")
    draft.outputs.append("running")


def narrow(draft: Draft) -> None:
    draft.add("MatMul", f"{draft.quantized('gate')} {draft.weight('w4', WIDTH, 8)}", "tiny")
    draft.add("Tanh", "tiny", "bent")
    draft.outputs.append("bent")


def unequal_concat(draft: Draft) -> None:
    at = draft.nodes.index(draft.node("joined"))
    rest = draft.nodes[at:]
    draft.nodes = draft.nodes[:at]
    left, right = draft.quantized("sum", scale=0.1), draft.quantized("gate", scale=0.2)
    draft.nodes += rest
    draft.node("joined").input[:] = [left, right]


def quantized_softmax(draft: Draft) -> None:
    draft.node("scores").input[0] = draft.quantized("product")
    draft.nodes.append(draft.nodes.pop(draft.nodes.index(draft.node("scores"))))


def exposed_head(draft: Draft) -> None:
    draft.outputs.append("second")


def island(draft: Draft) -> None:
    square = np.ones((WIDTH, WIDTH), np.float32)
    draft.constant("f1", square)
    draft.constant("f2", square)
    draft.add("MatMul", "y f1", "before")
    draft.add("MatMul", f"{draft.quantized('before')} {draft.weight('w5')}", "alone")
    draft.add("MatMul", "alone f2", "after")
    draft.outputs.append("after")


def two_types(draft: Draft) -> None:
    draft.tensors["h_zero"] = np.zeros((), FP8)


def unread(draft: Draft) -> None:
    draft.add("QuantizeLinear", "gate x_scale x_zero", "idle")


MUTATIONS: list[tuple[Mutation, str, Severity, str]] = [
    (zero_scale, "R1", E, "w1_DQ"),
    (infinite_scale, "R1", E, "w1_DQ"),
    (computed_scale, "R1", E, "w1_DQ"),
    (asymmetric, "R2", E, "w2_DQ"),
    (zero_point_of_another_shape, "R2", E, "w2_DQ"),
    (no_zero_point, "R3", W, "w1_DQ"),
    (unsigned_by_default, "R3", W, "h_Q"),
    (activation_per_axis, "R4", E, "h_Q"),
    (wrong_axis, "R5", E, "w1_DQ"),
    (too_few_scales, "R5", E, "w1_DQ"),
    (scale_of_another_type, "R6", E, "w2_DQ"),
    (cast_to_quantize, "R6", W, "x_Q"),
    (integer_bias, "R7", E, "b_DQ"),
    (quantized_scalar, "R8", W, "peak_Q"),
    (integer_operator, "R9", E, "whole"),
    (one_side_quantized, "R10", W, "second"),
    (second_quantizer, "R11", W, "again_Q"),
    (both_branches, "R12", W, "sum"),
    (wrong_branch, "R12", W, "sum"),
    (wrong_branch_behind_a_bias, "R12", W, "sum"),
    (attention, "R13", W, "product"),
    (constant_weight, "R14", E, "w1_DQ"),
    (constant_scale, "R14", W, "w1_DQ"),
    (newest_opset, "R15", E, ""),
    (custom_domain, "R15", E, "odd"),
    (unlisted_operator, "R16", E, "det"),
    (unlisted_type, "R16", E, "running"),
    (narrow, "R17", A, "tiny"),
    (unequal_concat, "R18", A, "joined"),
    (quantized_softmax, "R19", A, "scores"),
    (exposed_head, "R20", A, "second"),
    (island, "R21", A, "alone"),
    (unread, "R22", W, "idle"),
    (two_types, "R23", W, "second"),
]


def found(draft: Draft, target: Target = Target.TENSORRT_11) -> list[tuple[str, Severity, str]]:
    graph = QdqGraph(draft.model(), Path())
    return [(item.rule, item.severity, item.node or "") for item in lint(graph, target)]


@pytest.mark.parametrize("target", list(Target))
def test_the_good_model_is_clean_and_valid(good: Draft, target: Target) -> None:
    onnx.checker.check_model(good.model(), full_check=True)
    assert found(good, target) == []


@pytest.mark.parametrize(
    ("mutate", "rule", "severity", "node"), MUTATIONS, ids=lambda v: getattr(v, "__name__", str(v))
)
def test_a_broken_rule_is_named_with_its_node_and_nothing_else(
    good: Draft, mutate: Mutation, rule: str, severity: Severity, node: str
) -> None:
    mutate(good)
    assert found(good) == [(rule, severity, node)]


def test_what_stands_in_a_body_is_named_with_its_place(good: Draft) -> None:
    """Every rule but R20, which asks what reaches an output of the model."""
    assert lint(QdqGraph(good.in_a_branch(), Path()), Target.TENSORRT_11) == []
    for mutate, rule, severity, node in MUTATIONS:
        draft = deepcopy(good)
        mutate(draft)
        findings = lint(QdqGraph(draft.in_a_branch(), Path()), Target.TENSORRT_11)
        expected = [(rule, severity, f"if/then_branch/{node}" if node else None)]
        assert [(f.rule, f.severity, f.node) for f in findings] == expected * (rule != "R20")


def test_a_function_of_another_opset_is_looked_into() -> None:
    """ReduceMean takes its axes otherwise since opset 18: what is run keeps the call."""
    model = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[1, 64] x) => (float[n, m] y) <float s = {0.0}, int8 z = {0}>
    { [call] y = own.part(x, s, z) }
    <domain: "own", opset_import: ["" : 17]>
    part (a, s, z) => (c) { m = ReduceMean <axes = [1]> (a)
      [q] q = QuantizeLinear(m, s, z) [dq] c = DequantizeLinear(q, s, z) }
    """)
    findings = lint(QdqGraph(model, Path()), Target.TENSORRT_11)
    assert [(f.rule, f.node) for f in findings] == [("R1", "call/q"), ("R1", "call/dq")]


def test_every_rule_has_a_mutation() -> None:
    assert {rule for _, rule, _, _ in MUTATIONS} == {rule.number for rule in RULES}


def test_a_rule_never_reports_more_gravely_than_it_says() -> None:
    order = [E, W, A]
    for _, number, severity, _ in MUTATIONS:
        worst = next(rule.worst for rule in RULES if rule.number == number)
        assert order.index(severity) >= order.index(worst)


def test_unsigned_zero_points_are_errors(good: Draft) -> None:
    good.tensors["h_zero"] = np.array(0, np.uint8)
    assert found(good) == [("R3", E, "h_Q"), ("R3", E, "h_DQ")]


def all_fp8(draft: Draft) -> None:
    for name, array in draft.tensors.items():
        if array.dtype == np.int8:
            draft.tensors[name] = array.astype(FP8)


def test_fp32_that_was_meant_is_no_island(good: Draft) -> None:
    cast_to_quantize(good)
    good.node("h").input[0] = "first"
    assert "R6" not in {rule for rule, _, _ in found(good)}


def rotation(draft: Draft, tensor: str, matrix: NDArray[np.float32]) -> str:
    """Multiply both halves of `tensor` by a matrix."""
    blocks = draft.constant(f"{tensor}_blocks", np.array([0, 2, WIDTH // 2]))
    whole = draft.constant(f"{tensor}_whole", np.array([0, WIDTH]))
    draft.add("Reshape", f"{tensor} {blocks}", f"{tensor}_apart")
    held = draft.constant(f"{tensor}_matrix", matrix[None])
    draft.add("MatMul", f"{tensor}_apart {held}", f"{tensor}_turned")
    return draft.add("Reshape", f"{tensor}_turned {whole}", f"{tensor}_rotated")


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_rotation_is_no_float_gemm_to_quantize(good: Draft, kind: str) -> None:
    def rules(matrix: NDArray[np.float32]) -> set[str]:
        draft = type(good)(outputs=["y"])
        read = draft.quantized(rotation(draft, "x", matrix))
        draft.add("MatMul", f"{read} {draft.weight('w1')}", "first")
        draft.add("Relu", "first", "h")
        read = draft.quantized(rotation(draft, "h", matrix))
        draft.add("MatMul", f"{read} {draft.weight('w2')}", "second")
        draft.add("Tanh", "second", "y")
        return {rule for rule, _, _ in found(draft)}

    pair = np.array([[1, 1], [1, -1]], np.float32)
    hadamard = reduce(np.kron, [pair] * 6) / np.sqrt(WIDTH // 2)
    assert "R21" not in rules(hadamard.astype(kind))
    assert "R21" in rules(np.ones_like(hadamard, kind))


def test_fp8_is_clean_from_opset_19_on(good: Draft) -> None:
    all_fp8(good)
    assert found(good) == []
    good.opset = 18
    assert found(good) == [("R15", E, "x_Q")]


def test_of_the_fp8_types_one_is_taken(good: Draft) -> None:
    all_fp8(good)
    other = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E5M2)
    good.tensors["h_zero"] = good.tensors["h_zero"].astype(other)
    assert ("R3", E, "h_Q") in found(good)


@pytest.mark.parametrize(
    ("op_type", "shape", "reason"),
    [
        ("Conv", (32, 16, 3, 3), ""),
        ("MatMul", (8, 4), ""),
        ("Conv", (32, 3, 3, 3), "3 input"),
        ("Conv", (40, 32, 3, 3), "remainder"),
        ("Conv", (64, 32, 7, 7), "49 taps"),
        ("ConvTranspose", (32, 32, 2, 2), "transposed"),
    ],
)
def test_convolutions_without_fp8_kernels_are_known(
    op_type: str, shape: tuple[int, ...], reason: str
) -> None:
    found = without_fp8_kernel(op_type, shape)
    assert reason in found and bool(reason) == bool(found)


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm", "Conv", "ConvTranspose"])
@pytest.mark.parametrize("rank", range(6))
@pytest.mark.parametrize("quantize", [None, all_fp8])
def test_a_weight_of_any_rank_raises_nothing(
    good: Draft, op_type: str, rank: int, quantize: Mutation | None
) -> None:
    """No model like that runs: another check refuses it, or lint says what it sees."""
    if quantize is not None:
        quantize(good)
    good.tensors["w1_q"] = np.ones((32,) * rank, good.tensors["w1_q"].dtype)
    good.constant("float_weight", np.ones((32,) * rank, np.float32))
    good.add(op_type, "gate float_weight", "plain", transB=1)
    good.outputs.append("plain")
    node = good.node("first")
    node.op_type = op_type
    node.attribute.append(helper.make_attribute("transB", 1))
    for target in Target:
        assert all(item.rule for item in lint(QdqGraph(good.model(), Path()), target))


def test_opset_25_is_for_tensorrt_11_alone(good: Draft) -> None:
    good.opset = 25
    assert found(good, Target.TENSORRT_11) == []
    assert found(good, Target.TENSORRT_10) == [("R15", E, "")]


def test_a_declared_plugin_is_taken(good: Draft) -> None:
    custom_domain(good)
    assert lint(QdqGraph(good.model(), Path()), Target.TENSORRT_11, ["Special"]) == []


def test_the_halves_of_a_rotary_embedding_are_no_residual_add(good: Draft) -> None:
    """x·cos + turned(x)·sin: both inputs quantized, as a tool does that quantizes every Add."""
    good.constant("cos", np.ones(WIDTH, np.float32))
    good.constant("sin", np.ones(WIDTH, np.float32))
    good.add("Mul", "second cos", "straight")
    good.add("Neg", "second", "turned_half")
    good.add("Mul", "turned_half sin", "across")
    good.add("Add", f"{good.quantized('straight')} {good.quantized('across')}", "rotated")
    good.add("Tanh", "rotated", "bent")
    good.outputs.append("bent")
    assert found(good) == []


def test_a_residual_add_through_attention_is_one(good: Draft) -> None:
    """The branch divides and joins again before it comes back to where the shortcut starts."""
    good.constant("wo", np.ones((WIDTH, WIDTH), np.float32))
    good.add("Softmax", "product", "weights")
    good.add("MatMul", "weights gate", "mixed")
    good.add("MatMul", "mixed wo", "projected")
    good.add("Add", f"{good.quantized('projected')} {good.quantized('sum')}", "next")
    good.add("Tanh", "next", "bent")
    good.outputs.append("bent")
    assert found(good) == [("R12", W, "next")]


def test_a_float_model_gets_the_advice_that_can_be_given_before(good: Draft) -> None:
    good.remove("x_Q", "x_DQ", "h_Q", "h_DQ", "w1_DQ", "w2_DQ")
    good.node("first").input[:] = ["x", good.constant("f1", np.ones((WIDTH, WIDTH), np.float32))]
    good.node("second").input[:] = ["h", good.constant("f2", np.ones((WIDTH, WIDTH), np.float32))]
    good.add("MatMul", f"gate {good.constant('f3', np.ones((WIDTH, 8), np.float32))}", "tiny")
    good.add("Tanh", "tiny", "bent")
    good.outputs += ["bent", "second"]
    graph = QdqGraph(good.model(), Path())
    assert not graph.is_quantized
    assert found(good) == [("R17", A, "tiny"), ("R20", A, "second")]


def with_operator(draft: Draft, op: str, opset: int) -> None:
    draft.opset = opset
    draft.add(op, "product", "newer")
    draft.outputs.append("newer")


@pytest.mark.parametrize(
    ("op", "on_10", "on_11"),
    [
        ("Swish", [("R16", E, "newer")], []),  # came with 11.0
        ("DFT", [("R16", E, "newer")], [("R16", W, "newer")]),  # with 11.2
        ("Mish", [], []),  # always there
    ],
)
def test_an_operator_is_judged_by_the_version_it_came_with(
    good: Draft, op: str, on_10: list[object], on_11: list[object]
) -> None:
    with_operator(good, op, 24)
    assert found(good, Target.TENSORRT_10) == on_10
    assert found(good, Target.TENSORRT_11) == on_11


def test_operators_that_came_within_10_x_are_warned_of_there_alone(good: Draft) -> None:
    good.opset = 23
    good.constant("unit", np.ones(WIDTH, np.float32))
    good.add("RMSNormalization", "product unit", "normed")
    good.outputs.append("normed")
    (warning,) = lint(QdqGraph(good.model(), Path()), Target.TENSORRT_10)
    assert (warning.rule, warning.severity, warning.node) == ("R16", W, "normed")
    assert "10.15" in warning.reason
    assert found(good, Target.TENSORRT_11) == []


@pytest.mark.parametrize(
    ("kind", "op", "remedy"),
    [
        (TensorProto.INT64, "CumSum", "Cast its data to FP32, which holds whole numbers up to"),
        (TensorProto.BOOL, "ReduceMax", "Cast its data to INT32, and what it makes back"),
        (TensorProto.BFLOAT16, "Mish", "Cast its data to FP32, and what it makes back"),
        (TensorProto.INT8, "Sin", "Leave it float"),
        (TensorProto.STRING, "Mish", "TensorRT has no STRING: keep it out of the engine"),
    ],
)
def test_the_remedy_of_a_type_fits_what_was_found(kind: int, op: str, remedy: str) -> None:
    inputs = [helper.make_tensor_value_info("x", kind, [4])]
    constants = [numpy_helper.from_array(np.array(0), "axis")] * (op == "CumSum")
    node = helper.make_node(op, ["x", "axis"][: 1 + len(constants)], ["y"], "node")
    outputs = [helper.make_tensor_value_info("y", kind, [4])]
    graph = helper.make_graph([node], "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (finding,) = lint(QdqGraph(model, Path()), Target.TENSORRT_11)
    assert finding.rule == "R16" and finding.remedy.startswith(remedy)


def test_every_version_of_a_target_says_what_its_table_rests_on() -> None:
    table = operator_table()
    for target, versions in VERSIONS.items():
        assert all(f"{name}: " in table.describe(target) for name in versions)
    assert {basis.kind for basis in table.versions.values()} == {
        "table",
        "changelog",
        "second hand",
    }
    late = {**table.since, **{op: max(t.values()) for op, t in table.types_since.items()}}
    assert set(late.values()) <= set(table.versions)
    assert late.keys() <= table.types.keys()


def test_fp16_scales_that_underflow_are_zero_scales(good: Draft) -> None:
    good.tensors["w1_scale"] = np.full(WIDTH, 2e-8, np.float16)
    assert ("R1", E, "w1_DQ") in found(good)


def test_int8_attention_of_a_small_head_is_allowed(good: Draft) -> None:
    attention(good)
    model = good.model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64
    graph = QdqGraph(model, Path())
    # [64, 128]·[128, 64]: 64 columns of a length of 64 to 128, as P·V has them
    assert list(lint(graph, Target.TENSORRT_11)) == []


def test_scales_behind_a_transpose_are_looked_at_along_the_axis_they_end_on(good: Draft) -> None:
    good.add("Transpose", "w2_DQ", "w2_T", perm=[1, 0])
    good.nodes.insert(good.nodes.index(good.node("second")), good.nodes.pop())
    good.node("second").input[1] = "w2_T"
    assert found(good) == [("R5", E, "w2_DQ")]
    good.node("w2_DQ").attribute[0].i = 0
    assert found(good) == []

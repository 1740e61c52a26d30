from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._graph.edit.opsets import PER_AXIS
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.errors import InputError
from qgraph._graph.index import opset_of
from qgraph._graph.io.models import identify
from qgraph._graph.tensors import TensorSpec

Build = Callable[..., onnx.ModelProto]
Prepare = Callable[[onnx.ModelProto], PreparedModel]
WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
OLD = (
    "(float[2,4] x) => (float[1,2,3] y) { [fc] h = MatMul(x, w) [soft] s = Softmax(h)"
    " [row] u = Unsqueeze<axes = [0]>(s) [clip] y = Clip<min = 0.1, max = 0.5>(u) }"
)


def run(model: onnx.ModelProto, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return bytes(session.run(None, {"x": x})[0].tobytes())


@pytest.mark.parametrize("opset", [9, 10])
def test_converting_an_old_model_keeps_its_outputs(
    build: Build, prepared: Prepare, opset: int
) -> None:
    model = build(OLD, opset=opset, w=WEIGHT)
    x = np.random.default_rng(0).standard_normal((2, 4), np.float32)
    assert run(prepared(model).model, x) == run(model, x)


def test_an_old_model_comes_out_at_the_least_opset_that_q_dq_needs(
    build: Build, prepared: Prepare
) -> None:
    assert opset_of(prepared(build(OLD, opset=9, w=WEIGHT)).model) == PER_AXIS


def test_a_converted_model_has_only_its_own_nodes_all_named(
    build: Build, prepared: Prepare
) -> None:
    nodes = prepared(build(OLD, opset=9, w=WEIGHT)).model.graph.node
    assert [node.name for node in nodes] == ["fc", "soft", "row", "clip"]


def test_conversion_keeps_metadata(build: Build, prepared: Prepare) -> None:
    model = build(OLD, opset=9, w=WEIGHT)
    model.metadata_props.add(key="author", value="me")
    assert list(prepared(model).model.metadata_props) == list(model.metadata_props)


@pytest.mark.parametrize("opset", [13, 17, 22, 26])
def test_an_opset_that_q_dq_has_is_left_alone(build: Build, prepared: Prepare, opset: int) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }", opset=opset)
    result = prepared(model)
    assert opset_of(result.model) == opset and not result.is_converted


def test_preparing_twice_gives_the_same_bytes(
    build: Build, prepared: Prepare, tmp_path: Path
) -> None:
    first = prepared(build(OLD, opset=9, w=WEIGHT))
    again = prepare(first.path)
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(
        deterministic=True
    )


def test_a_prepared_model_passes_the_checker(build: Build, prepared: Prepare) -> None:
    onnx.checker.check_model(prepared(build(OLD, opset=9, w=WEIGHT)).model, full_check=True)


@pytest.mark.parametrize("size", [-1, -7])
def test_a_size_below_zero_is_a_dynamic_one(build: Build, prepared: Prepare, size: int) -> None:
    model = build("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=WEIGHT)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = size
    assert prepared(model).inputs == (TensorSpec("x", np.dtype(np.float32), ("", 4)),)


def test_an_input_without_a_shape_is_told_from_a_number(build: Build, prepared: Prepare) -> None:
    model = build("(float x, float s) => (float y) { y = Mul(x, s) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.input[1].type.tensor_type.shape.SetInParent()
    assert [spec.ranked for spec in prepared(model).inputs] == [False, True]


OPTIONAL = "(optional(float[N]) o) => (float[N] y) { x = OptionalGetElement(o) y = Relu(x) }"
SEQUENCE = "(float[N] x) => (seq(float[N]) y) { y = SequenceConstruct(x) }"
STRINGS = "(string[N] s) => (bool[N] y) { y = Equal(s, s) }"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OPTIONAL, "'o' is declared as optional, expected a tensor"),
        (SEQUENCE, "'y' is declared as sequence, expected a tensor"),
        (STRINGS, "the input 's' holds strings"),
    ],
)
def test_what_is_no_tensor_of_numbers_is_named(
    build: Build, prepared: Prepare, text: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        prepared(build(text))


def test_the_source_file_is_not_changed(build: Build, prepared: Prepare) -> None:
    result = prepared(build(OLD, opset=9, w=WEIGHT))
    assert identify(result.path) == result.id


def test_unnamed_nodes_are_listed(build: Build, prepared: Prepare) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    assert prepared(model).renamed == {"Relu:y": ""}


def test_inputs_leave_out_those_that_are_weights(build: Build, prepared: Prepare) -> None:
    model = build("(float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul(x, w) }", w=WEIGHT)
    (spec,) = prepared(model).inputs
    assert spec == TensorSpec("x", np.dtype(np.float32), ("N", 4))


def test_outputs_stand_in_the_order_of_the_graph(build: Build, prepared: Prepare) -> None:
    model = build("(float[N] x) => (float[N] b, float[N] a) { a = Relu(x) b = Abs(x) }")
    assert prepared(model).outputs == ("b", "a")


@pytest.mark.parametrize(
    "node",
    [
        "y = QuantizeLinear(x, s)",
        "y, a, b = DynamicQuantizeLinear(x)",
        "q, a, b = DynamicQuantizeLinear(x) y = MatMulInteger(q, q)",
    ],
)
def test_a_quantized_model_is_refused(build: Build, prepared: Prepare, node: str) -> None:
    model = build(f"(float[2,2] x) => (uint8[2,2] y) {{ {node} }}", s=np.float32(1))
    with pytest.raises(InputError, match="quantized already"):
        prepared(model)


@pytest.mark.parametrize("domain", ["com.microsoft.nchwc", "com.ms.internal.nhwc"])
def test_a_model_laid_out_for_one_device_is_refused(
    build: Build, prepared: Prepare, domain: str
) -> None:
    model = build(f"(float[2,16,4,4] x) => (float[2,16,4,4] y) {{ y = {domain}.Conv(x, x) }}")
    with pytest.raises(InputError, match=f"Conv of the domain '{domain}'"):
        prepared(model)


def test_an_operator_unknown_to_the_converter_is_bad_input(build: Build, prepared: Prepare) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Frobnicate(x) }", opset=11)
    with pytest.raises(InputError, match="cannot convert from opset 11"):
        prepared(model)


def test_an_operator_of_another_domain_stays(build: Build, prepared: Prepare) -> None:
    model = build("(float[N] x) => (float[N] y) { [mine] y = Relu(x) }")
    model.graph.node[0].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)
    result = prepared(model).model
    assert result.graph.node[0].domain == "com.example"
    assert ("com.example", 1) in {(item.domain, item.version) for item in result.opset_import}


@pytest.mark.parametrize("opset", [13, 21])
def test_a_model_with_bytes_altered_is_refused_or_prepared(
    build: Build, tmp_path: Path, opset: int
) -> None:
    text = "(float[N,4] x) => (float[N,3] y) { i = Identity(w) h = MatMul(x, i) y = Relu(h) }"
    whole = build(text, opset=opset, w=WEIGHT).SerializeToString()
    generator = np.random.default_rng(0)
    prepared = refused = 0
    for _ in range(150):
        altered = bytearray(whole)
        for position in generator.integers(0, len(whole), generator.integers(1, 4)):
            altered[position] = generator.integers(0, 256)
        (tmp_path / "m.onnx").write_bytes(altered)
        try:
            prepare(tmp_path / "m.onnx")
            prepared += 1
        except InputError:
            refused += 1
    assert prepared and refused  # anything else would have been raised

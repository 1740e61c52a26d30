from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from qgraph._graph.errors import EnvironmentFault, InputError
from qgraph._graph.io.models import write_model
from qgraph._graph.io.weights import stub
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._graph.run.session import Semantics, open_session

Build = Callable[..., onnx.ModelProto]
ONES = {"x": np.ones(3, np.float32)}
no_gpu = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")


@pytest.fixture
def model(build: Build) -> onnx.ModelProto:
    return build("(float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Abs(y) }")


def test_outputs_come_by_name(model: onnx.ModelProto) -> None:
    result = open_session(model).run(ONES)
    assert {name: list(array) for name, array in result.items()} == {"y": [-1] * 3, "z": [1] * 3}


def test_only_the_outputs_named_come(model: onnx.ModelProto) -> None:
    assert list(open_session(model).run(ONES, ["z"])) == ["z"]


def test_naming_no_output_gives_none(model: onnx.ModelProto) -> None:
    assert open_session(model).run(ONES, []) == {}


def test_a_file_is_opened_like_a_model(model: onnx.ModelProto, tmp_path: Path) -> None:
    write_model(model, tmp_path / "m.onnx")
    assert open_session(tmp_path / "m.onnx").outputs == ("y", "z")


def test_weights_in_a_data_file_that_nobody_reads_do_no_harm(build: Build, tmp_path: Path) -> None:
    """What bodies read is read."""
    text = """(float[3] x, bool b) => (float[3] y) {
    z = If(b) <then_branch = g1 () => (float[3] s) { s = Add(x, used) },
               else_branch = g2 () => (float[3] t) { t = Identity(x) }> y = Neg(z) }"""
    weights = {
        name: np.full(size, 2, np.float32) for name, size in (("used", 3), ("spare", 1 << 18))
    }
    write_model(build(text, **weights), tmp_path / "m.onnx", external_above=0)
    given = ONES | {"b": np.ones((), np.bool_)}
    (expected,) = ReferenceEvaluator(str(tmp_path / "m.onnx")).run(None, given)
    np.testing.assert_array_equal(open_session(tmp_path / "m.onnx").run(given)["y"], expected)


def test_placement_counts_the_nodes_of_each_provider(model: onnx.ModelProto) -> None:
    assert open_session(model).placement() == {"CPUExecutionProvider": 2}


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"x": np.ones(3)},
        {"x": np.ones((3, 3), np.float32)},
        {"x": np.ones(3, np.float32), "more": np.ones(3, np.float32)},
    ],
)
def test_a_feed_that_does_not_fit_is_bad_input(
    model: onnx.ModelProto, feed: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> None:
    with pytest.raises(InputError, match="onnxruntime failed to run"):
        open_session(model).run(feed)


def test_a_model_onnxruntime_refuses_is_bad_input(build: Build) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Frobnicate(x) }")
    with pytest.raises(InputError, match="Frobnicate"):
        open_session(model)


def test_an_operator_of_a_custom_domain_is_named_as_what_the_machine_lacks(build: Build) -> None:
    model = build("(float[N] x) => (float[N] y) { y = acme.Foo(x) }")
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    with pytest.raises(EnvironmentFault, match="no operator 'Foo' of 'acme'"):
        open_session(model)


def test_exact_semantics_run_qdq_as_written(build: Build) -> None:
    """Fused into an integer kernel, the same graph would not be the product of floats it says."""
    generator = np.random.default_rng(0)
    scale, zero = np.float32(0.05), np.int8(0)
    weight = generator.integers(-127, 128, (64, 8)).astype(np.int8)
    model = build(
        "(float[N,64] x) => (float[N,8] y)"
        "{ q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z)"
        " w = DequantizeLinear(v, s, z) y = MatMul(a, w) }",
        s=scale,
        z=zero,
        v=weight,
    )
    x = generator.standard_normal((4, 64)).astype(np.float32)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    oracle = ort.InferenceSession(model.SerializeToString(), plain, ["CPUExecutionProvider"])
    got = open_session(model, semantics=Semantics.EXACT).run({"x": x})["y"]
    assert np.array_equal(got, oracle.run(None, {"x": x})[0])


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_fp8_is_computed_as_onnx_says(build: Build, semantics: Semantics, op: str) -> None:
    """onnxruntime 1.31 drops the Relu, and cannot open the graph with its integer fusions on."""
    generator = np.random.default_rng(0)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)
    model = build(
        "(float[N,64] x) => (float[N,8] y)"
        "{ r = Relu(x) q = QuantizeLinear(r, s, z) a = DequantizeLinear(q, s, z)"
        f" w = DequantizeLinear(v, s, z) y = {op}(a, w) }}",
        s=np.float32(0.05),
        z=np.zeros((), dtype),
        v=generator.standard_normal((64, 8)).astype(dtype),
    )
    x = generator.standard_normal((4, 64)).astype(np.float32)
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    got = open_session(model, semantics=semantics).run({"x": x})["y"]
    # sums of 64 float32 products in another order
    assert got == pytest.approx(np.asarray(want), abs=1e-5)


def test_the_cpu_is_always_there() -> None:
    require_provider(Provider.CPU)


@no_gpu
def test_cuda_without_a_gpu_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault, match="CUDAExecutionProvider was asked for") as caught:
        require_provider(Provider.CUDA)
    assert "--provider cpu" in caught.value.hint


@no_gpu
def test_a_cuda_session_never_falls_back_to_the_cpu(model: onnx.ModelProto) -> None:
    with pytest.raises(EnvironmentFault):
        open_session(model, Provider.CUDA)


@no_gpu
def test_refusing_cuda_leaves_stderr_open(
    model: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EnvironmentFault):
        open_session(model, Provider.CUDA)
    with open(2, "w", closefd=False) as stderr:
        stderr.write("still here")
    assert capfd.readouterr().err == "still here"


def test_what_is_not_packed_gives_the_same_and_is_no_input_to_be_given(build: Build) -> None:
    text = """(float[N, 512] x) => (float[N, 512] y, float[512, 512] kept) {
        y = MatMul(x, w) kept = Identity(v) z = MatMul(x, v) }"""
    weights = {
        name: np.random.default_rng(number).standard_normal((512, 512)).astype(np.float32)
        for number, name in enumerate("wv")
    }
    opened = []
    for pack in (True, False):
        made = build(text)
        made.graph.initializer.extend(
            stub(n, TensorProto.FLOAT, w.shape) for n, w in weights.items()
        )
        opened.append(open_session(made, weights=weights, pack=pack))
    feed = {"x": np.ones((3, 512), np.float32)}
    packed, plain = (session.run(feed) for session in opened)
    assert opened[1].inputs == ("x",)
    for name, values in packed.items():
        np.testing.assert_allclose(plain[name], values, rtol=1e-4, atol=1e-4)

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qgraph._graph.errors import EnvironmentFault, InputError, LimitError, UsageError
from qgraph._graph.io import models
from qgraph._graph.io.files import sha256_of
from qgraph._graph.io.models import (
    identify,
    read_lazily,
    read_model,
    read_on_disk,
    size_on_disk,
    tensor_from,
    to_bytes,
    write_model,
)
from qgraph._graph.io.weights import array_of, is_on_disk
from qgraph._graph.tensors import Array

Build = Callable[..., onnx.ModelProto]
PROJECT = Path(__file__).parents[3]
LINEAR = "(float[N,32] x) => (float[N,16] y) { [fc] y = MatMul(x, w) }"
LARGE = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
WEIGHT = np.arange(512, dtype=np.float32).reshape(32, 16)


@pytest.fixture
def linear(build: Build) -> onnx.ModelProto:
    return build(LINEAR, w=WEIGHT)


@pytest.fixture
def large(build: Build) -> onnx.ModelProto:
    return build("(float[N,256] x) => (float[N,256] y) { y = MatMul(x, w) }", w=LARGE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def refused(path: Path, data: bytes) -> InputError:
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_model(path)
    return caught.value


def weight_of(model: onnx.ModelProto) -> Array:
    return onnx.numpy_helper.to_array(model.graph.initializer[0])


def same(a: onnx.ModelProto, b: onnx.ModelProto) -> bool:
    """Compare; onnx leaves a note that the values lie in the message, which is the default."""
    for model in (a, b):
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.DEFAULT:
                tensor.ClearField("data_location")
    return a == b


def data_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.data"))


def test_a_model_is_read_back_as_it_was_written(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path)
    assert read_model(path) == linear


def test_a_model_with_a_data_file_is_read_back_as_it_was_written(
    linear: onnx.ModelProto, path: Path
) -> None:
    write_model(linear, path, external_above=0)
    assert data_files(path.parent) and same(read_model(path), linear)


@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int8, np.int64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
@settings(max_examples=50)
def test_an_initializer_keeps_shape_type_and_bits(array: Array) -> None:
    again = onnx.numpy_helper.to_array(tensor_from("t", array))
    assert again.shape == array.shape and again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()


def test_the_file_onnx_writes_and_ours_hold_the_same_model(
    linear: onnx.ModelProto, path: Path
) -> None:
    write_model(linear, path, external_above=0)
    assert same(onnx.load(str(path)), linear)


def test_writing_leaves_the_model_in_memory_as_it_was(linear: onnx.ModelProto, path: Path) -> None:
    before = linear.SerializeToString(deterministic=True)
    write_model(linear, path, external_above=0)
    assert linear.SerializeToString(deterministic=True) == before


def test_the_data_file_is_named_after_its_content(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    (name,) = data_files(path.parent)
    assert name == f"model-{sha256_of(path.parent / name)[:12]}.data"


def test_replacing_a_model_removes_its_stale_data_file(build: Build, path: Path) -> None:
    write_model(build(LINEAR, w=WEIGHT), path, external_above=0)
    (old,) = data_files(path.parent)
    write_model(build(LINEAR, w=WEIGHT + 1), path, external_above=0)
    (new,) = data_files(path.parent)
    assert new != old


def test_replacing_a_model_by_a_small_one_removes_its_data_file(
    linear: onnx.ModelProto, path: Path
) -> None:
    write_model(linear, path, external_above=0)
    write_model(linear, path)
    assert data_files(path.parent) == []


def test_writing_the_same_model_twice_keeps_its_data_file(
    linear: onnx.ModelProto, path: Path
) -> None:
    write_model(linear, path, external_above=0)
    write_model(linear, path, external_above=0)
    assert same(read_model(path), linear) and len(data_files(path.parent)) == 1


def test_the_data_file_of_another_model_is_left_alone(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    other = path.with_name("model-large.onnx")
    write_model(linear, other, external_above=0)
    write_model(linear, path)
    assert same(read_model(other), linear)


@pytest.mark.parametrize("external_above", [0, models.EXTERNAL_ABOVE])
def test_a_model_read_lazily_does_not_lose_its_weights_when_written_back(
    large: onnx.ModelProto, path: Path, external_above: int
) -> None:
    write_model(large, path, external_above=0)
    write_model(read_lazily(path), path, external_above=external_above)
    assert same(read_model(path), large)


def test_a_model_read_lazily_leaves_large_weights_on_the_disk(
    large: onnx.ModelProto, path: Path
) -> None:
    write_model(large, path, external_above=0)
    (weight,) = read_lazily(path).graph.initializer
    assert is_on_disk(weight) and not weight.raw_data
    np.testing.assert_array_equal(array_of(weight), weight_of(large))


def test_a_small_weight_is_loaded_all_the_same(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    assert not is_on_disk(read_lazily(path).graph.initializer[0])


def test_a_weight_that_folding_computes_with_is_loaded(build: Build, path: Path) -> None:
    graph = """(float[N,256] x) => (float[N,256] y) {
        w1 = Transpose(w)
        y = MatMul(x, w1)
    }"""
    write_model(build(graph, w=LARGE), path, external_above=0)
    assert not is_on_disk(read_lazily(path).graph.initializer[0])


def test_data_that_vanished_since_the_model_was_read_is_named(
    large: onnx.ModelProto, path: Path
) -> None:
    write_model(large, path, external_above=0)
    (weight,) = read_lazily(path).graph.initializer
    path.with_name(data_files(path.parent)[0]).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        array_of(weight)


def test_a_full_disk_leaves_the_old_model_and_no_new_file(build: Build, path: Path) -> None:
    old = build(LINEAR, w=WEIGHT)
    write_model(old, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(EnvironmentFault):
            write_model(build(LINEAR, w=WEIGHT + 1), path, external_above=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert read_model(path) == old


def test_a_model_file_that_cannot_be_placed_takes_its_data_file_along(
    linear: onnx.ModelProto, path: Path
) -> None:
    path.mkdir()
    with pytest.raises(UsageError):
        write_model(linear, path, external_above=0)
    assert data_files(path.parent) == []


WRITER = """
import sys
from pathlib import Path
import numpy as np
from qgraph._graph.io.models import read_model, tensor_from, write_model
path = Path(sys.argv[1])
model = read_model(path)
print("ready", flush=True)
while True:
    for value in (1, 2):
        weight = np.full((32, 16), value, np.float32)
        model.graph.initializer[0].CopyFrom(tensor_from("w", weight))
        write_model(model, path, external_above=0)
"""


def test_a_kill_at_any_instant_leaves_a_model_with_its_own_weights(
    linear: onnx.ModelProto, path: Path
) -> None:
    linear.graph.initializer[0].CopyFrom(tensor_from("w", np.ones((32, 16), np.float32)))
    write_model(linear, path, external_above=0)
    rng = np.random.default_rng(0)
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.005, 0.05))
            process.send_signal(signal.SIGKILL)
        assert set(weight_of(read_model(path)).flat) in ({1.0}, {2.0})


def test_the_identity_changes_with_the_weights(build: Build, tmp_path: Path) -> None:
    for name, weight in (("a", WEIGHT), ("b", WEIGHT + 1)):
        write_model(build(LINEAR, w=weight), tmp_path / name / "m.onnx", external_above=0)
    assert identify(tmp_path / "a" / "m.onnx") != identify(tmp_path / "b" / "m.onnx")


def test_the_identity_covers_the_data_file(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    before = identify(path)
    data = path.parent / data_files(path.parent)[0]
    data.write_bytes(bytes(data.stat().st_size))
    assert identify(path).sha256 != before.sha256


def test_the_identity_does_not_depend_on_the_folder(
    linear: onnx.ModelProto, tmp_path: Path
) -> None:
    write_model(linear, tmp_path / "a" / "m.onnx")
    write_model(linear, tmp_path / "b" / "m.onnx")
    assert identify(tmp_path / "a" / "m.onnx") == identify(tmp_path / "b" / "m.onnx")


def test_the_size_on_disk_counts_the_data_file(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    data = path.parent / data_files(path.parent)[0]
    assert size_on_disk(path) == path.stat().st_size + data.stat().st_size


def test_reading_does_not_change_the_files(linear: onnx.ModelProto, path: Path) -> None:
    write_model(linear, path, external_above=0)
    before = identify(path)
    read_model(path)
    assert identify(path) == before


def test_an_empty_file_says_so(path: Path) -> None:
    assert "empty" in refused(path, b"").message


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n<!doctype html>\n", "HTML"),
        (b"<html><body>404</body></html>", "HTML"),
        (b"PK\x03\x04rest", "ZIP archive (arrays for --data?"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
    ],
)
def test_a_file_of_another_kind_is_named(path: Path, data: bytes, word: str) -> None:
    assert word in refused(path, data).message


def test_random_bytes_are_no_model(path: Path) -> None:
    assert refused(path, np.random.default_rng(0).bytes(4096)).exit_code == 3


def test_every_prefix_of_a_model_is_refused(build: Build, path: Path) -> None:
    small = build("(float[N,2] x) => (float[N,2] y) { y = MatMul(x, w) }", w=np.eye(2))
    whole = small.SerializeToString()
    # An opset that stands behind the graph is the last thing a reader could miss.
    for length in range(len(whole)):
        refused(path, whole[:length])


def test_a_model_without_a_graph_is_refused(path: Path) -> None:
    model = onnx.ModelProto(ir_version=10, opset_import=[onnx.helper.make_opsetid("", 21)])
    assert "no graph" in refused(path, model.SerializeToString()).message


def test_a_model_without_an_opset_is_refused(linear: onnx.ModelProto, path: Path) -> None:
    del linear.opset_import[:]
    assert "no opset" in refused(path, linear.SerializeToString()).message


@pytest.mark.parametrize("opset", [99, 1000])
def test_a_model_from_the_future_is_refused(build: Build, path: Path, opset: int) -> None:
    model = build(LINEAR, opset=opset, w=WEIGHT)
    assert f"opset {opset}, expected at most" in refused(path, model.SerializeToString()).message


@pytest.mark.parametrize(
    ("field", "value"), [("dims", [2**40, 2**40]), ("dims", [-4, 16]), ("dims", [32, 17])]
)
def test_a_weight_whose_shape_does_not_fit_its_bytes_is_named(
    linear: onnx.ModelProto, path: Path, field: str, value: list[int]
) -> None:
    linear.graph.initializer[0].dims[:] = value
    assert "tensor 'w'" in refused(path, linear.SerializeToString()).message


def test_a_weight_of_an_unknown_type_is_named(linear: onnx.ModelProto, path: Path) -> None:
    linear.graph.initializer[0].data_type = 99
    assert "tensor 'w' has no known type" in refused(path, linear.SerializeToString()).message


def test_a_weight_listed_number_by_number_is_read(build: Build, path: Path) -> None:
    model = build(LINEAR)
    listed = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [32, 16], WEIGHT.ravel())
    model.graph.initializer.append(listed)
    write_model(model, path)
    assert np.array_equal(weight_of(read_model(path)), WEIGHT)


def test_a_weight_with_numbers_missing_is_named(build: Build, path: Path) -> None:
    model = build(LINEAR)
    listed = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [32, 16], WEIGHT.ravel())
    del listed.float_data[-1]
    model.graph.initializer.append(listed)
    assert "holds 511 values" in refused(path, model.SerializeToString()).message


def test_values_given_as_bytes_and_as_a_list_are_refused(build: Build, path: Path) -> None:
    model = build(LINEAR, w=WEIGHT)
    model.graph.initializer[0].float_data.append(1.0)
    assert "'w' holds its values twice" in refused(path, model.SerializeToString()).message


def test_a_segment_of_a_tensor_is_refused(build: Build, path: Path) -> None:
    model = build(LINEAR, w=WEIGHT)
    model.graph.initializer[0].segment.begin = 0
    assert "'w' is a segment" in refused(path, model.SerializeToString()).message


def test_an_initializer_that_stands_twice_is_refused(build: Build, path: Path) -> None:
    model = build(LINEAR, w=WEIGHT)
    model.graph.initializer.append(model.graph.initializer[0])
    assert "'w' is made twice" in refused(path, model.SerializeToString()).message


def test_two_nodes_of_one_name_are_refused_as_onnxruntime_does(build: Build, path: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { [k] z = Relu(x) [k] y = Abs(z) }")
    assert "two nodes are called 'k'" in refused(path, model.SerializeToString()).message
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail, match="same node name"):
        onnxruntime.InferenceSession(model.SerializeToString())


def test_constants_may_have_one_name_as_for_onnxruntime(build: Build, path: Path) -> None:
    model = build("""(float[N] x) => (float[N] y)
    { [k] a = Constant<value = float[1] {2.0}>() [k] b = Constant<value = float[1] {3.0}>()
      z = Mul(x, a) y = Add(z, b) }""")
    onnx.save(model, path)
    read_model(path)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"x": np.ones(2, np.float32)})
    assert found.tolist() == [5.0, 5.0]


def test_an_output_of_two_nodes_is_refused(build: Build, path: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) y = Abs(x) }")
    assert "'y' is made twice" in refused(path, model.SerializeToString()).message


def test_a_tensor_that_nothing_makes_is_named_with_its_reader(build: Build, path: Path) -> None:
    message = refused(path, build(LINEAR).SerializeToString()).message
    assert "'fc' reads the tensor 'w', which nothing makes" in message


def test_an_output_that_nothing_makes_is_named(build: Build, path: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { z = Relu(x) }")
    assert "'y', which nothing makes" in refused(path, model.SerializeToString()).message


def test_a_name_that_is_not_utf8_is_refused(linear: onnx.ModelProto, path: Path) -> None:
    data = linear.SerializeToString().replace(b"fc", b"\xff\xfe")
    assert "not UTF-8" in refused(path, data).message


def test_weights_beyond_one_message_are_a_limit(
    linear: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the real limit, 2 GB, would need more memory than a shared machine has to spare
    monkeypatch.setattr(models, "_PROTOBUF_LIMIT", WEIGHT.nbytes)
    with pytest.raises(LimitError, match="2048 MiB"):
        to_bytes(linear)


def test_packed_weights_stay_packed_when_they_come_from_the_disk(path: Path) -> None:
    values = np.arange(64 * 1024).reshape(64, 1024) % 16 - 8
    low, high = values.ravel()[::2] & 0xF, values.ravel()[1::2] & 0xF
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.INT4, dims=values.shape)
    weight.raw_data = (low | high << 4).astype(np.uint8).tobytes()
    text = "net (float[N,64] x) => (float[N,1024] y) { f = Cast<to = 1>(w) y = MatMul(x, f) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')
    model.graph.initializer.append(weight)
    write_model(model, path, external_above=0)
    write_model(read_on_disk(path), path)
    (back,) = onnx.load(path).graph.initializer
    assert len(back.raw_data) == values.size // 2
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(back).astype(int), values)

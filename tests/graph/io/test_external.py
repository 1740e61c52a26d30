from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.errors import InputError
from qgraph._graph.io.external import external_files
from qgraph._graph.io.models import identify, read_model, read_on_disk
from qgraph._graph.io.weights import array_of
from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array

Build = Callable[..., onnx.ModelProto]
WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder, with `w.bin` holding the bytes of WEIGHT."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(WEIGHT.tobytes())
    return tmp_path / "model"


def move_out(tensor: onnx.TensorProto, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


@pytest.fixture
def save(build: Build, folder: Path) -> Callable[..., Path]:
    """Return a function that writes a model whose weight lies where the entries say."""

    def make(**entries: str) -> Path:
        model = build("(float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=WEIGHT)
        move_out(model.graph.initializer[0], **entries)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return folder / "m.onnx"

    return make


Save = Callable[..., Path]


def refusal(path: Path) -> str:
    """Return the message of both ways in; what identifies a model checks the same."""
    with pytest.raises(InputError) as caught:
        identify(path)
    with pytest.raises(InputError):
        read_model(path)
    return str(caught.value)


def test_a_weight_beside_the_model_is_loaded(save: Save) -> None:
    (tensor,) = read_model(save(location="w.bin")).graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(tensor), WEIGHT)


def test_a_weight_in_the_middle_of_its_file_is_loaded(save: Save, folder: Path) -> None:
    (folder / "big.bin").write_bytes(b"12345678" + WEIGHT.tobytes() + b"rest")
    path = save(location="big.bin", offset="8", length="48")
    (tensor,) = read_model(path).graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(tensor), WEIGHT)


def test_a_missing_data_file_names_tensor_and_path(save: Save) -> None:
    message = refusal(save(location="gone.bin"))
    assert "'w'" in message and "gone.bin" in message and "missing" in message


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "a/../../w.bin",
        "/etc/passwd",
        "/dev/zero",
        "C:\\w.bin",
        "w\0.bin",
        "",
        "*/_ORT_MEM_ADDR_/*",
        "a" * 300,
    ],
)
def test_a_location_outside_the_folder_is_refused(save: Save, location: str) -> None:
    assert "'w'" in refusal(save(location=location))


@pytest.mark.parametrize(
    "entries",
    [
        {"length": "4096"},
        {"length": str(2**50)},
        {"length": "44"},
        {"offset": "4"},
        {"offset": "-1"},
        {"offset": "abc"},
        {"offset": "²"},
        {"length": "9" * 5000},
        {"offset": str(2**60)},
    ],
)
def test_a_range_that_does_not_hold_the_weight_is_refused(
    save: Save, entries: dict[str, str]
) -> None:
    assert "'w'" in refusal(save(location="w.bin", **entries))


def test_a_data_file_cut_short_says_so(save: Save, folder: Path) -> None:
    path = save(location="w.bin", length="48")
    (folder / "w.bin").write_bytes(WEIGHT.tobytes()[:-1])
    assert "a file of 47 bytes" in refusal(path)


def test_a_link_out_of_the_folder_is_refused(save: Save, folder: Path) -> None:
    (folder.parent / "secret").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(folder.parent / "secret")
    assert "a link out of the folder" in refusal(save(location="link.bin"))


def test_a_linked_folder_that_leads_outside_is_refused(save: Save, folder: Path) -> None:
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "w.bin").write_bytes(WEIGHT.tobytes())
    (folder / "sub").symlink_to(folder.parent / "other")
    assert "a link out of the folder" in refusal(save(location="sub/w.bin"))


def weight_of(path: Path) -> Array:
    """Return the weight; both ways in must find the same."""
    (lazy,), (eager,) = (read(path).graph.initializer for read in (read_on_disk, read_model))
    assert array_of(lazy).tolist() == array_of(eager).tolist()
    return array_of(lazy)


def test_a_link_that_stays_in_the_folder_is_followed(save: Save, folder: Path) -> None:
    (folder / "link.bin").symlink_to("w.bin")
    assert np.array_equal(weight_of(save(location="link.bin")), WEIGHT)


def test_a_hard_link_is_a_file_of_the_folder(save: Save, folder: Path) -> None:
    os.link(folder / "w.bin", folder.parent / "other.bin")
    assert np.array_equal(weight_of(save(location="w.bin")), WEIGHT)


def test_a_hubs_cache_of_links_is_read(save: Save, folder: Path) -> None:
    """In a hub's cache the model and its data are links to blobs of other names."""
    blobs, snapshot = (folder.parent / "models--x--y" / name for name in ("blobs", "snapshots/1"))
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save(location="w.bin").rename(blobs / "aa")
    (folder / "w.bin").rename(blobs / "bb")
    (snapshot / "m.onnx").symlink_to("../../blobs/aa")
    (snapshot / "w.bin").symlink_to("../../blobs/bb")
    assert np.array_equal(weight_of(snapshot / "m.onnx"), WEIGHT)
    assert open_session(snapshot / "m.onnx").run({"x": np.eye(4, dtype=np.float32)})


def test_a_folder_as_data_is_refused(save: Save, folder: Path) -> None:
    (folder / "sub").mkdir()
    assert "no regular file" in refusal(save(location="sub"))


def test_a_pipe_as_data_is_refused_at_once(save: Save, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "no regular file" in refusal(save(location="pipe"))


def test_data_of_a_constant_inside_a_branch_is_checked_too(build: Build, folder: Path) -> None:
    model = build(
        "(bool c) => (float[4,3] y) { y = If(c) <"
        "then_branch = t () => (float[4,3] a) { a = Constant <value = float[1] {1}> () },"
        "else_branch = e () => (float[4,3] b) { b = Constant <value = float[1] {1}> () }> }"
    )
    constant = model.graph.node[0].attribute[0].g.node[0].attribute[0].t
    move_out(constant, location="../w.bin")
    with pytest.raises(InputError, match="not inside the model's folder"):
        external_files(model, folder)


def test_data_of_a_sparse_weight_is_checked_too(build: Build, folder: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }")
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "s"
    move_out(sparse.values, location="/dev/zero")
    with pytest.raises(InputError, match="tensor 's'"):
        external_files(model, folder)


def test_two_tensors_in_one_file_name_it_once(build: Build, folder: Path) -> None:
    model = build("(float[N] x) => (float[N] y) { y = Relu(x) }", a=WEIGHT, b=WEIGHT)
    for tensor in model.graph.initializer:
        move_out(tensor, location="w.bin")
    assert external_files(model, folder) == [folder / "w.bin"]

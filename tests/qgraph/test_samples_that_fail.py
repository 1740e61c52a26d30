"""Samples that a model does not take: the message names the data, what was fed, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qgraph as api
from qgraph import InputError


def model_of(nodes: list[Any], inputs: dict[str, list[Any]], held: dict[str, Any]) -> Any:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", infos, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    """A model whose Reshape holds the length it was traced with, 20, though its axis is open."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["y"], "product"),
    ]
    held = {"shape": np.array([-1, 20], np.int64), "w": np.ones((20, 8), np.float32)}
    path = tmp_path / "traced.onnx"
    onnx.save(model_of(nodes, {"x": ["batch", "seq"]}, held), path)
    return path


def test_made_up_samples_that_fail_are_called_made_up(traced: Path, qgraph: Any) -> None:
    failed = qgraph("sensitivity", traced)
    assert failed.code == 3
    assert "synthetic (seed 0)" in failed.err
    assert "made up, such as x float32 [1, 32]" in " ".join(failed.err.split())
    assert "--data" in failed.err
    with pytest.raises(InputError, match="synthetic") as said:
        api.calibrate(traced)
    assert "made up" in said.value.hint


def test_samples_of_the_wrong_length_are_named_with_their_shape(
    traced: Path, tmp_path: Path, qgraph: Any
) -> None:
    np.savez(tmp_path / "short.npz", x=np.ones((4, 15), np.float32))
    failed = qgraph("sensitivity", "--fast", traced, "--data", tmp_path / "short.npz")
    assert failed.code == 3
    assert "short.npz" in failed.err
    assert "x float32 [1, 15]" in failed.err


def test_a_sample_that_is_all_padding_is_blamed_on_the_softmax_and_not_on_the_mask() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "product"),
        helper.make_node("Where", ["seen", "zero", "never"], ["mask"], "mask"),
        helper.make_node("Add", ["product", "mask"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["shares"], "attention"),
        helper.make_node("MatMul", ["shares", "v"], ["y"], "values"),
    ]
    eye = np.eye(4, dtype=np.float32)
    zero, never = np.array(0, np.float32), np.array(-np.inf, np.float32)
    held = {"w": eye, "v": eye, "zero": zero, "never": never}
    model = model_of(nodes, {"x": ["batch", 4]}, held)
    seen = helper.make_tensor_value_info("seen", TensorProto.BOOL, ["batch", 4])
    model.graph.input.append(seen)
    x, mask = np.ones((1, 4), np.float32), np.array([[True, True, False, False]])
    assert api.calibrate(model, data=[{"x": x, "seen": mask}]).tensors
    with pytest.raises(InputError, match=r"arises in the node 'attention' \(Softmax\)") as said:
        api.calibrate(model, data=[{"x": x, "seen": mask}, {"x": x, "seen": mask & False}])
    assert "all padding" in said.value.hint


def test_an_empty_name_is_not_the_current_folder(qgraph: Any) -> None:
    for given in (["", "-o", "s.json"], ["m.onnx", "--data", ""]):
        failed = qgraph("sensitivity", "--fast", *given)
        assert failed.code == 2
        assert "found an empty name" in failed.err


@pytest.fixture
def in_bfloat16(tmp_path: Path) -> Path:
    """A product that takes bfloat16 and gives it."""
    weight = np.random.default_rng(0).standard_normal((32, 16)).astype(ml_dtypes.bfloat16)
    held = onnx.helper.make_tensor("w", TensorProto.BFLOAT16, (32, 16), weight.tobytes(), raw=True)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["batch", size])
        for name, size in (("x", 32), ("y", 16))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [held])
    path = tmp_path / "bf16.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.save(model, path)
    return path


def test_made_up_samples_in_bfloat16_are_random_as_others_are(in_bfloat16: Path) -> None:
    (found,) = api.calibrate(in_bfloat16).tensors
    assert found.rmin < -1 and found.rmax > 1


def test_samples_in_bfloat16_come_as_float32_or_as_its_bytes(
    in_bfloat16: Path, tmp_path: Path
) -> None:
    values = np.random.default_rng(1).standard_normal((8, 32)).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "wide.npz", x=values.astype(np.float32))
    np.savez(tmp_path / "bytes.npz", x=values)  # which NumPy calls |V2 when it reads them
    found = [
        api.calibrate(in_bfloat16, data=data).tensors
        for data in (tmp_path / "wide.npz", tmp_path / "bytes.npz", values)
    ]
    assert found[0][0].rmax == float(values.astype(np.float32).max())
    assert found[0] == found[1] == found[2]
    np.savez(tmp_path / "half.npz", x=values.astype(np.float16))
    with pytest.raises(InputError, match="expected bfloat16") as said:
        api.calibrate(in_bfloat16, data=tmp_path / "half.npz")
    assert "astype('float32')" in said.value.hint


def test_an_ir_version_that_onnxruntime_cannot_read_is_refused_first(
    traced: Path, qgraph: Any
) -> None:
    model = onnx.load(traced)
    model.ir_version = 14
    onnx.save(model, traced)
    for command in ("sensitivity", "lint"):
        failed = qgraph(command, traced)
        assert failed.code == 3
        assert "IR version 14, expected at most 13" in failed.err

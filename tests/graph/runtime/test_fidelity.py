"""Converting the opset must not change what a model computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, version_converter

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.errors import InputError
from qgraph._graph.run.fidelity import require_same_outputs
from qgraph._graph.run.session import Provider

FEED = {"x": np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)}


def resizing(path: Path, mode: str) -> Path:
    """A model of opset 10, whose Resize has no say in where it samples."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    node = helper.make_node("Resize", ["x", "s"], ["y"], "resize", mode=mode)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, None, None]) for n in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=7)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_model_that_converts_well_passes(tmp_path: Path, mode: str) -> None:
    require_same_outputs(prepare(resizing(tmp_path / "m.onnx", mode)), FEED, Provider.CPU)


def test_an_operator_that_changed_its_meaning_is_refused(tmp_path: Path) -> None:
    prepared = prepare(resizing(tmp_path / "m.onnx", "linear"))
    # onnx's converter alone: it leaves out what was the only way before opset 11
    converted = version_converter.convert_version(onnx.load(prepared.path), 13)
    prepared = replace(prepared, model=converted)
    with pytest.raises(InputError, match="opset 10"):
        require_same_outputs(prepared, FEED, Provider.CPU)

"""Shapes that a file declares beside inputs that were made dynamic by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.prepare import prepare
from qgraph._graph.tensors import Array

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 4] x) => (float[M, 4] y) {
    h = Relu(x)
    size = Shape(h)
    zeros = ConstantOfShape(size)
    y = Add(h, zeros)
}"""


def net(path: Path, inner: list[int | str]) -> onnx.ModelProto:
    """Write a model that computes with the shape of `h`, and declares `inner` for it."""
    model = onnx.parser.parse_model(NET)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, inner))
    onnx.save(model, path)
    return model


def computed(model: onnx.ModelProto, rows: int) -> Array:
    (found,) = ReferenceEvaluator(model).run(None, {"x": np.ones((rows, 4), np.float32)})
    return np.asarray(found)


@pytest.mark.parametrize("inner", [[1, 4], [2, 4], ["N", 3]])
def test_a_shape_that_contradicts_the_inputs_is_not_computed_with(
    tmp_path: Path, inner: list[int | str]
) -> None:
    model = net(path := tmp_path / "net.onnx", inner)
    folded = prepare(path).model
    for rows in (1, 3):
        np.testing.assert_array_equal(computed(folded, rows), computed(model, rows))


def test_a_shape_that_the_inputs_do_not_tell_is_kept(tmp_path: Path) -> None:
    model = net(tmp_path / "net.onnx", ["N", 4])
    model.graph.node[0].op_type = "Cut"  # of another domain: only the file knows its shape
    model.graph.node[0].domain = "org.else"
    model.opset_import.append(helper.make_opsetid("org.else", 1))
    onnx.save(model, path := tmp_path / "other.onnx")
    (value,) = (item for item in prepare(path).model.graph.value_info if item.name == "h")
    assert [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] == ["N", 4]


def test_an_output_declared_with_the_old_size_gets_that_of_the_input(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 4] x) => (float[1, 4] y)'
    model = onnx.parser.parse_model(f"{text} {{ y = Relu(x) }}")
    onnx.save(model, path := tmp_path / "net.onnx")
    (found,) = prepare(path).model.graph.output
    assert found.type.tensor_type.shape.dim[0].dim_param == "N"


def test_a_size_that_only_values_tell_costs_no_memory(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1] x) => (float[n] y) {
        size = Constant <value = int64[1] {137438953472}> ()
        zeros = ConstantOfShape(size)
        y = Add(x, zeros)
    }"""  # half a terabyte
    onnx.save(onnx.parser.parse_model(text), path := tmp_path / "net.onnx")
    assert [node.op_type for node in prepare(path).model.graph.node] == ["ConstantOfShape", "Add"]

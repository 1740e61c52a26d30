"""Wide products, some columns at a time: the numbers of the whole product, from narrow weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from qgraph._graph.edit.columns import split_into_columns
from qgraph._graph.io.models import read_on_disk
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.partwise import PartwiseSession
from qgraph._graph.run.session import open_session

ROWS, COLUMNS = 64, 1000
MOST = 4 * ROWS * 300
"""Bytes of 300 columns as float32: the last of four products has 100."""
HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def head(path: Path, kind: int = SINGLE, scale: str = "") -> Path:
    """Write x·W; W is dequantized by a scale for each `column`, `row` or for the whole."""
    draw = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = draw.standard_normal((ROWS, COLUMNS)).astype(dtype)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="head")]
    initializers = [numpy_helper.from_array(weight, "w")]
    if scale:
        size = {"column": (COLUMNS,), "row": (ROWS,), "whole": (), "one": (1,)}[scale]
        axis = 0 if scale == "row" else 1
        scales = draw.uniform(0.01, 0.1, size).astype(dtype)
        codes = draw.integers(-127, 127, weight.shape, np.int8)
        initializers = [
            numpy_helper.from_array(codes, "q"),
            numpy_helper.from_array(np.asarray(scales), "s"),
            numpy_helper.from_array(np.zeros(size, np.int8), "z"),
        ]
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis))
    ends: list[Any] = [
        helper.make_tensor_value_info(name, kind, ["n", size])
        for name, size in (("x", ROWS), ("y", COLUMNS))
    ]
    graph = helper.make_graph(nodes, "head", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def rows(kind: int) -> np.ndarray[Any, Any]:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return np.random.default_rng(1).standard_normal((5, ROWS)).astype(dtype)


@pytest.mark.parametrize("scale", ["", "column", "whole", "one"])
@pytest.mark.parametrize("kind", [SINGLE, HALF])
def test_the_product_is_that_of_the_whole_matrix(tmp_path: Path, kind: int, scale: str) -> None:
    path = head(tmp_path / "m.onnx", kind, scale)
    model = read_on_disk(path)
    weights = split_into_columns(model, MOST)
    assert [node.op_type for node in model.graph.node].count("MatMul") == 4
    assert {array.shape for array in weights.values()} == {(ROWS, 300), (ROWS, 100)}
    feed = {"x": rows(kind)}
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    whole = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (expected,) = whole.run(["y"], feed)
    found = open_session(model, weights=weights).run(feed)["y"]
    tolerance = 1e-6 if kind == SINGLE else 2e-3
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(("most", "scale"), [(4 * ROWS * COLUMNS, "column"), (MOST, "row")])
def test_what_fits_and_what_has_a_scale_for_each_row_stays_as_it_is(
    tmp_path: Path, most: int, scale: str
) -> None:
    model = read_on_disk(head(tmp_path / "m.onnx", SINGLE, scale))
    before = model.SerializeToString()
    assert not split_into_columns(model, most)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("scale", ["", "column"])
def test_a_session_in_parts_multiplies_with_some_columns_at_a_time(
    tmp_path: Path, scale: str
) -> None:
    path, feed = head(tmp_path / "m.onnx", SINGLE, scale), {"x": rows(SINGLE)}
    parts = PartwiseSession(path, [feed], Memory(8 << 30), part=MOST)
    expected = open_session(path).run(feed)["y"]
    np.testing.assert_allclose(parts.run(feed)["y"], expected, rtol=1e-6, atol=1e-5)
    assert parts.placement()["CPUExecutionProvider"] > 4

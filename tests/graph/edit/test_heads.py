"""A wide last projection stands in narrow form, with the same lengths and angles of its outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qgraph._graph.edit.heads import factor_of, find_output_head, narrow_head
from qgraph._graph.edit.prepare import PreparedModel, prepare
from qgraph._graph.io.models import tensor_from, write_model
from qgraph._graph.io.weights import is_on_disk, with_weights
from qgraph._graph.tensors import Array

DECODER = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (float[batch,sequence,8] x) => (float[batch,sequence,W] logits) {
    [norm] h = Tanh(x)
    [lm_head] logits = MatMul(h, w)
}
"""

READ_ON = DECODER.replace("logits) {", "logits, float[] z) {").replace(
    "MatMul(h, w)", "MatMul(h, w) [more] z = ReduceSum<keepdims = 0>(logits)"
)


def prepared(folder: Path, weight: Array, text: str = DECODER) -> PreparedModel:
    model = onnx.parser.parse_model(text.replace("W]", f"{weight.shape[1]}]"))
    model.graph.initializer.append(tensor_from("w", weight))
    write_model(model, folder / "decoder.onnx", external_above=0)
    return prepare(folder / "decoder.onnx")


def narrowed(before: PreparedModel) -> PreparedModel:
    head = find_output_head(before.model, "logits")
    assert head is not None
    after = narrow_head(before, head)
    assert after is not None
    return after


def logits(of: PreparedModel, x: Array) -> Array:
    model = with_weights(of.model)
    onnx.checker.check_model(model, full_check=True)
    (made,) = ReferenceEvaluator(model).run(None, {"x": x})
    found = np.asarray(made, np.float64)
    return found.reshape(-1, found.shape[-1])


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), width=st.integers(9, 300), rank=st.integers(1, 8))
def test_inner_products_of_outputs_are_kept(
    tmp_path_factory: pytest.TempPathFactory, seed: int, width: int, rank: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((8, rank)) @ rng.standard_normal((rank, width))
    before = prepared(tmp_path_factory.mktemp("m"), weight.astype(np.float32))
    after = narrowed(before)
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    wide, narrow = logits(before, x), logits(after, x)
    assert narrow.shape == (6, 8)
    scale = np.abs(wide @ wide.T).max()
    np.testing.assert_allclose(narrow @ narrow.T, wide @ wide.T, rtol=0, atol=1e-5 * scale)


def test_narrow_columns_are_orthogonal_so_that_the_last_holds_most_of_an_output() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 300)) + 2
    factor = factor_of(weight)
    assert factor is not None
    products = factor.T @ factor
    lengths = products.diagonal()
    np.testing.assert_allclose(products, np.diag(lengths), atol=1e-9 * lengths[-1])
    np.testing.assert_allclose(lengths, np.linalg.svd(weight)[1][::-1] ** 2, rtol=1e-9)
    assert (factor.max(0) >= -factor.min(0)).all()


def test_columns_are_read_piece_by_piece_from_the_disk(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 9000)).astype(np.float32)
    before = prepared(tmp_path, weight)
    after = narrowed(before)
    (factor,) = (onnx.numpy_helper.to_array(item) for item in after.model.graph.initializer)
    np.testing.assert_allclose(factor @ factor.T, weight @ weight.T, rtol=1e-4, atol=1e-2)
    assert [is_on_disk(item) for item in before.model.graph.initializer] == [True]


def test_a_weight_that_another_node_reads_stays(tmp_path: Path) -> None:
    text = DECODER.replace(
        "[norm] h = Tanh(x)", "[use] z = MatMul(x, w) s = ReduceSum(z) h = Add(x, s)"
    )
    after = narrowed(prepared(tmp_path, np.ones((8, 16), np.float32), text))
    assert {item.name for item in after.model.graph.initializer} == {"w", "w/narrow"}


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (8, DECODER),
        (16, READ_ON),
        (16, DECODER.replace("logits = MatMul(h, w)", "y = MatMul(h, w) [act] logits = Tanh(y)")),
    ],
    ids=["it widens nothing", "something reads the output", "something else makes the output"],
)
def test_there_is_no_head_where(tmp_path: Path, width: int, text: str) -> None:
    model = prepared(tmp_path, np.ones((8, width), np.float32), text).model
    assert find_output_head(model, "logits") is None


def test_a_weight_with_nan_is_left_alone(tmp_path: Path) -> None:
    weight = np.ones((8, 16), np.float32)
    weight[3, 5] = np.nan
    before = prepared(tmp_path, weight)
    head = find_output_head(before.model, "logits")
    assert head is not None
    assert narrow_head(before, head) is None

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx.reference import ReferenceEvaluator

from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array
from qgraph._quantize.arithmetic import (
    FP8,
    INT8,
    Grid,
    activation_scale,
    dequantize,
    fake_quantize,
    largest_value_scale,
    quantize,
)

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
SIZES = st.floats(-(2.0**100), 2.0**100, width=32)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3), elements=SIZES)
EXTREMES = [0.0, -0.0, 1e-45, -1e-45, 1.2e-38, 1e-30, 1.0, 3.4028235e38, -3.4028235e38]
GRIDS = st.sampled_from([INT8, FP8])
quickly = settings(max_examples=80)


def reference(op: str, *inputs: Array, axis: int = 1, grid: Grid = INT8) -> Array:
    """Return what onnx's own evaluator computes; the zero point is a 0 of the grid."""
    node = onnx.helper.make_node(op, ["a", "s", "z"], ["y"], axis=axis)
    dtype = grid.data_type if op == "QuantizeLinear" else onnx.TensorProto.FLOAT
    values = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in zip("as", inputs, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("y", dtype, None)
    zero = onnx.numpy_helper.from_array(np.zeros(inputs[1].shape, grid.dtype), "z")
    graph = onnx.helper.make_graph([node], "g", values, [output], [zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    (result,) = ReferenceEvaluator(model).run(None, dict(zip("as", inputs, strict=True)))
    return np.asarray(result)


def scale_of(array: Array, grid: Grid = INT8) -> Array:
    return activation_scale(Range(float(array.min()), float(array.max())), array.dtype, grid)


@given(MATRICES, GRIDS)
@quickly
def test_quantize_is_quantizelinear_bit_for_bit(array: Array, grid: Grid) -> None:
    scale = scale_of(array, grid)
    expected = reference("QuantizeLinear", array, scale, grid=grid)
    assert quantize(array, scale, grid=grid).tobytes() == expected.tobytes()


@given(MATRICES, st.integers(0, 1), GRIDS)
@quickly
def test_quantize_along_an_axis_is_quantizelinear_bit_for_bit(
    array: Array, axis: int, grid: Grid
) -> None:
    scale = largest_value_scale(array, axis, grid)
    expected = reference("QuantizeLinear", array, scale, axis=axis, grid=grid)
    assert quantize(array, scale, axis, grid).tobytes() == expected.tobytes()


@given(hnp.arrays(np.int8, (3, 5)), st.integers(0, 1), st.floats(2**-100, 2**100, width=32), GRIDS)
@quickly
def test_dequantize_is_dequantizelinear_bit_for_bit(
    codes: Array, axis: int, first: float, grid: Grid
) -> None:
    values = codes.view(grid.dtype)
    scale = np.linspace(first, 3 * first, values.shape[axis], dtype=np.float32)
    expected = reference("DequantizeLinear", values, scale, axis=axis, grid=grid)
    assert dequantize(values, scale, axis).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("grid", "count"), [(INT8, 128), (FP8, 127)])
def test_magnitudes_are_what_quantizelinear_makes_of_anything_positive(
    grid: Grid, count: int
) -> None:
    dense = np.linspace(0, 2 * grid.qmax, 1 << 17).astype(np.float32)
    small = np.geomspace(1e-4, 1, 1 << 12).astype(np.float32)
    values = np.concatenate([dense, small])
    found = np.unique(quantize(values, np.ones((), np.float32), grid=grid).astype(np.float64))
    assert len(found) == count
    np.testing.assert_array_equal(grid.magnitudes, found)


def test_halves_are_rounded_to_even() -> None:
    array = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert quantize(array, np.ones((), np.float32)).tolist() == [0, 2, 2, 0, -2]


def test_fp8_rounds_to_three_bits_after_the_leading_one_and_stops_at_448() -> None:
    array = np.array([17, 19, 1.0625, 2**-10, 464, -1e30], np.float32)
    held = quantize(array, np.ones((), np.float32), grid=FP8).astype(np.float32)
    # halves go to the even one: 17 lies between 16 and 18, 19 between 18 and 20
    assert held.tolist() == [16, 20, 1, 0, 448, -448]


def test_values_beyond_the_range_are_clipped_to_int8() -> None:
    array = np.array([1e30, 127.6, -128.6, -1e30], np.float32)
    assert quantize(array, np.ones((), np.float32)).tolist() == [127, 127, -128, -128]


@given(hnp.arrays(np.float32, 16, elements=st.floats(-(2**60), 2**60, width=32)))
@quickly
def test_the_error_inside_the_range_is_at_most_half_a_step(array: Array) -> None:
    scale = scale_of(array)
    error = np.abs(array.astype(np.float64) - fake_quantize(array, scale))
    # The quotient, the scale and the product are each rounded to 2^-24 of up to 127 steps; where
    # the scale was lifted to the smallest normal number the error is a fraction of it.
    assert (error <= float(scale) * (0.5 + 127 * 3 * 2**-24)).all()


@given(hnp.arrays(np.float32, (4, 6), elements=st.floats(-(2**60), 2**60, width=32)))
@quickly
def test_the_error_of_a_weight_is_at_most_half_a_step_of_its_channel(weight: Array) -> None:
    scale = largest_value_scale(weight, 1)
    error = np.abs(weight.astype(np.float64) - fake_quantize(weight, scale, 1))
    # see above
    assert (error <= scale * (0.5 + 127 * 3 * 2**-24)).all()


@given(MATRICES, GRIDS)
@quickly
def test_quantizing_what_was_quantized_changes_nothing(array: Array, grid: Grid) -> None:
    scale = largest_value_scale(array, 0, grid)
    values = quantize(array, scale, 0, grid)
    again = quantize(dequantize(values, scale, 0), scale, 0, grid)
    assert np.array_equal(again, values)


@given(st.lists(st.sampled_from(EXTREMES) | SIZES, min_size=1, max_size=8), st.integers(0, 1))
@quickly
def test_a_weight_scale_is_positive_normal_and_finite(values: list[float], axis: int) -> None:
    scale = largest_value_scale(np.array([values], np.float32), axis)
    assert np.isfinite(scale).all() and (scale >= np.finfo(np.float32).tiny).all()


@given(
    hnp.arrays(
        np.float16, (2, 3), elements=st.floats(width=16, allow_nan=False, allow_infinity=False)
    )
)
@quickly
def test_a_scale_in_half_precision_is_positive_normal_and_finite(weight: Array) -> None:
    scale = largest_value_scale(weight, 1)
    assert scale.dtype == F16
    assert np.isfinite(scale).all() and (scale >= np.finfo(np.float16).tiny).all()


@given(low=st.floats(allow_nan=False, allow_infinity=False, width=32), high=SIZES)
@quickly
def test_an_activation_scale_is_a_positive_finite_scalar(low: float, high: float) -> None:
    scale = activation_scale(Range(low, high), F32)
    assert scale.shape == () and scale.dtype == F32
    assert np.isfinite(scale) and scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, np.finfo(np.float16).max])
@pytest.mark.parametrize("grid", [INT8, FP8])
def test_the_largest_values_of_a_type_stay_finite(largest: np.generic, grid: Grid) -> None:
    array = np.array([[largest, -largest]], largest.dtype)  # type: ignore[operator]
    held = fake_quantize(array, largest_value_scale(array, None, grid), None, grid)
    assert np.isfinite(held).all()


def test_the_larger_magnitude_of_a_range_maps_to_127() -> None:
    scale = activation_scale(Range(-254, 3), F32)
    assert scale == 2 and quantize(np.float32(-254) * np.ones(1), scale) == -127


@pytest.mark.parametrize("value", [3.0, -0.001])
def test_a_constant_activation_comes_back_within_half_a_step(value: float) -> None:
    array = np.full(4, value, np.float32)
    scale = scale_of(array)
    assert (np.abs(fake_quantize(array, scale) - array) <= scale / 2).all()


def test_an_activation_of_zeros_has_scale_one_and_stays_zero() -> None:
    zeros = np.zeros(4, np.float32)
    assert scale_of(zeros) == 1 and not fake_quantize(zeros, scale_of(zeros)).any()


def test_a_channel_of_zeros_has_scale_one() -> None:
    weight = np.array([[0, 254], [0, -127]], np.float32)
    assert largest_value_scale(weight, 1).tolist() == [1, 2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_per_axis_scale_has_one_entry_per_output_channel(axis: int) -> None:
    weight = np.ones((2, 3, 4), np.float32)
    assert largest_value_scale(weight, axis).shape == (weight.shape[axis],)


def test_per_tensor_scale_is_a_scalar() -> None:
    assert largest_value_scale(np.ones((2, 3), np.float32), None).shape == ()


def test_scales_have_the_dtype_of_the_weight() -> None:
    assert largest_value_scale(np.ones((2, 3), np.float16), 1).dtype == F16


def test_values_come_back_in_the_dtype_of_the_scale() -> None:
    values = np.ones((2, 2), np.int8)
    assert dequantize(values, np.ones((), np.float16)).dtype == F16


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_matrix_worked_on_in_parts_comes_out_as_a_whole(axis: int | None) -> None:
    array = np.random.default_rng(0).standard_normal((2100, 2050)).astype(np.float32)
    scale = largest_value_scale(array, axis)
    peak = np.abs(array).max(axis=None if axis is None else 1 - axis)
    assert np.array_equal(scale, (peak / 127).astype(np.float32))
    wide = scale if axis is None else np.expand_dims(scale, 1 - axis)
    expected = np.clip(np.rint(array / wide), -128, 127).astype(np.int8)
    assert np.array_equal(quantize(array, scale, axis), expected)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("dtype", [F16, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(16))])
def test_half_precision_in_parts_is_what_numpy_makes_of_the_whole(
    axis: int | None, dtype: np.dtype[np.generic]
) -> None:
    drawn = np.random.default_rng(0).standard_normal((700, 800)) * np.logspace(-7, 4, 800)
    weight = drawn.astype(dtype)
    scale = largest_value_scale(weight, axis)
    peak = np.abs(weight.astype(np.float32)).max(axis=None if axis is None else 1 - axis)
    floor = np.finfo(np.float16).tiny if dtype == F16 else np.finfo(np.float32).tiny
    assert (scale == np.maximum(peak / 127, floor).astype(dtype)).all()
    values = quantize(weight, scale, axis)
    along = scale[:, None] if axis == 0 else scale
    assert dequantize(values, scale, axis).tobytes() == (values.astype(dtype) * along).tobytes()

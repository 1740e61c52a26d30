"""Tensors on a device: parts without copies, stacks, and the way to the host. Here on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qgraph._graph.errors import InputError
from qgraph._graph.run.device_tensors import DeviceTensor, join_on_device, run_on_device
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.tensors import Array

TWICE = """<ir_version: 10, opset_import: ["" : 21]>
net (float[a, b, c] x) => (float[a, b, c] y, float[a, b, c] z) { y = Add(x, x)  z = Neg(x) }"""


@pytest.fixture
def session() -> Session:
    return open_session(onnx.parser.parse_model(TWICE))


@pytest.fixture
def array() -> Array:
    return np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)


def on_device(array: Array) -> DeviceTensor:
    value = ort.OrtValue.ortvalue_from_numpy(array)
    return DeviceTensor(value, Provider.CPU, array.dtype, array.shape)


def test_what_a_run_leaves_goes_into_the_next(session: Session, array: Array) -> None:
    first = run_on_device(session, {"x": array})
    second = run_on_device(session, {"x": first["y"]})
    np.testing.assert_array_equal(np.asarray(second["y"]), 4 * array)
    np.testing.assert_array_equal(np.asarray(second["z"]), -2 * array)
    assert second["y"].nbytes == array.nbytes


def test_a_part_goes_into_a_run_as_the_rows_it_is(session: Session, array: Array) -> None:
    part = on_device(array).part(1, 2, 3)
    assert part.shape == (2, 2, 3)
    made = run_on_device(session, {"x": part})
    np.testing.assert_array_equal(np.asarray(made["z"]), -array[:, 4:])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_])
def test_parts_in_order_are_the_whole_and_others_are_stacked(
    array: Array, axis: int, dtype: type
) -> None:
    array = array.astype(dtype)
    whole = on_device(array)
    parts = [whole.part(axis, place, 2) for place in range(2)]
    assert join_on_device(parts, axis, Provider.CPU).value is whole.value
    turned = join_on_device([parts[1], parts[0]], axis, Provider.CPU)
    halves = np.split(array, 2, axis=axis)
    np.testing.assert_array_equal(np.asarray(turned), np.concatenate(halves[::-1], axis=axis))


def test_what_comes_from_the_host_is_stacked_with_what_lies_there(array: Array) -> None:
    joined = join_on_device([on_device(array), array], 0, Provider.CPU)
    np.testing.assert_array_equal(np.asarray(joined), np.concatenate([array, array]))


def test_parts_that_do_not_come_out_even_are_refused(array: Array) -> None:
    with pytest.raises(ValueError, match="does not hold 4"):
        on_device(array).part(1, 0, 4)


def test_what_the_runtime_refuses_is_bad_input(session: Session, array: Array) -> None:
    with pytest.raises(InputError, match="onnxruntime failed"):
        run_on_device(session, {"x": array[0]})

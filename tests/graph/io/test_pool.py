"""A data file that is filled with tensors: each content once, read back from where it lies."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from qgraph._graph import tensors
from qgraph._graph.io.models import tensor_from
from qgraph._graph.io.pool import Pool
from qgraph._graph.io.rescaling import rescale_on_reading
from qgraph._graph.io.weights import array_of, is_on_disk, place, retype_on_reading
from qgraph._graph.tensors import Array

VALUES = np.random.default_rng(0).standard_normal((96, 40)).astype(np.float32)
FACTORS = {axis: np.linspace(0.5, 2, size, dtype=np.float32) for axis, size in ((0, 96), (1, 40))}


@pytest.mark.parametrize("dtype", [np.int8, np.float16, ml_dtypes.float8_e4m3fn])
def test_what_is_held_is_read_back_from_the_file(tmp_path: Path, dtype: type) -> None:
    values: Array = VALUES.astype(dtype)
    with Pool(tmp_path / "pool") as pool:
        tensor = pool.hold("w", values)
        assert pool.holds(tensor) and not tensor.raw_data
        found = array_of(tensor)
        assert found.dtype == values.dtype and found.tobytes() == values.tobytes()


def test_few_values_stay_in_the_tensor(tmp_path: Path) -> None:
    with Pool(tmp_path / "pool") as pool:
        assert not is_on_disk(pool.hold("w", np.zeros(10, np.int8)))


def test_what_is_equal_is_written_once_wherever_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"\0" * 64 + VALUES.tobytes())
    elsewhere = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=VALUES.shape)
    place(elsewhere, tmp_path / "source", 64, VALUES.nbytes)
    inline, again = tensor_from("w", VALUES), TensorProto()
    again.CopyFrom(elsewhere)
    with Pool(tmp_path / "pool") as pool:
        held = pool.hold("u", VALUES)
        for tensor in (inline, elsewhere, again, held):
            pool.take(tensor)
            assert pool.holds(tensor) and np.array_equal(array_of(tensor), VALUES)
    assert (tmp_path / "pool").stat().st_size == VALUES.nbytes


@pytest.mark.parametrize("axis", [0, 1])
def test_values_made_on_reading_are_written_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: int
) -> None:
    monkeypatch.setattr(tensors, "_PIECE", 7 * 40)  # rows that 96 is no multiple of
    (tmp_path / "source").write_bytes(VALUES.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=VALUES.shape)
    place(tensor, tmp_path / "source", 0, VALUES.nbytes)
    rescale_on_reading(tensor, axis, FACTORS[axis], divides=True)
    retype_on_reading(tensor, TensorProto.FLOAT16)
    wanted: Array = array_of(tensor)
    with Pool(tmp_path / "pool") as pool:
        pool.take(tensor)
    assert pool.holds(tensor) and array_of(tensor).tobytes() == wanted.tobytes()

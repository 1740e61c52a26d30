"""A run gives the same bits wherever in memory its inputs lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from qgraph._graph.run.session import open_session
from qgraph._graph.tensors import Array, aligned

OFFSETS = (0, 4, 16, 32, 48)


def at(offset: int, array: Array) -> Array:
    """Return a copy that begins `offset` bytes behind a cache line."""
    room = np.empty(array.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    made: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    assert made.ctypes.data % 64 == offset
    return made


@pytest.mark.parametrize("bound", [False, True])
def test_sums_have_the_same_bits_wherever_inputs_lie(
    build: Callable[..., onnx.ModelProto],
    bound: bool,  # noqa: FBT001
) -> None:
    session = open_session(build("(float[b,5,33] x) => (float s) { s = ReduceSum<keepdims=0>(x) }"))
    draw = np.random.default_rng(0)

    def run(array: Array) -> bytes:
        if bound:
            return bytes(session.run_bound({"x": array})["s"].numpy().tobytes())
        return session.run({"x": array})["s"].tobytes()

    for _ in range(30):
        x = draw.standard_normal((1, 5, 33)).astype(np.float32)
        assert len({run(at(offset, x)) for offset in OFFSETS}) == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.array(1, bool),
        np.zeros((0, 3), np.int64),
        np.array(["a", "b"], object),
        at(16, np.arange(5, dtype=np.int64)),
    ],
)
def test_an_aligned_array_is_the_array(array: Any) -> None:
    found = aligned(array)
    assert found.dtype == array.dtype and found.shape == array.shape
    assert np.array_equal(found, array)
    assert aligned(found) is found

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph._quantize.arithmetic import FP8, INT8, Grid, fake_quantize
from qgraph._quantize.arithmetic import largest_value_scale as largest
from qgraph._quantize.emit import weight_scale
from qgraph._quantize.scheme import WeightScale

Weight = Callable[..., NDArray[np.float32]]


@pytest.mark.parametrize("grid", [INT8, FP8])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_clipping_never_makes_a_channel_worse(weight: Weight, axis: int | None, grid: Grid) -> None:
    # long channels: of 20,000 normal numbers the largest lies beyond the best range of 8 bits
    array = weight(20_000, 3) if axis == 1 else weight(3, 20_000)
    methods = (WeightScale.MAX, WeightScale.MSE)
    scales = [weight_scale(array, axis, method, grid) for method in methods]
    others = None if axis is None else 1 - axis
    errors = [
        np.square(fake_quantize(array, s, axis, grid) - array).sum(axis=others) for s in scales
    ]
    assert (errors[1] <= errors[0]).all() and errors[1].sum() < errors[0].sum()


def test_max_maps_the_largest_to_127(weight: Weight) -> None:
    array = weight(8, 4)
    assert np.array_equal(weight_scale(array, 1, WeightScale.MAX), largest(array, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scales_keep_dtype_and_shape_and_stay_positive(
    dtype: type[np.float32 | np.float16],
) -> None:
    array = np.array([[0, 1e-6, 5], [0, -2e-7, 1]], dtype)
    scale = weight_scale(array, 1, WeightScale.MSE)
    assert scale.dtype == dtype and scale.shape == (3,) and (scale > 0).all()

"""An exported graph is held against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from qgraph._exporters.exported import TOLERANCES, ExportMismatchError, compared
from qgraph._graph.tensors import Array

EXPECTED = np.array([[1.0, -8.0]], np.float32)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_difference_allowed_is_a_share_of_the_largest_value(dtype: str) -> None:
    allowed = TOLERANCES[dtype] * 8
    found = compared("a case", EXPECTED + np.float32(0.9 * allowed), EXPECTED, dtype)
    assert found.max_abs_difference == pytest.approx(0.9 * allowed, rel=1e-2)  # of steps of fp32
    with pytest.raises(ExportMismatchError, match="outputs differ"):
        compared("a case", EXPECTED + np.float32(1.1 * allowed), EXPECTED, dtype)


@pytest.mark.parametrize(
    ("found", "says"), [(EXPECTED[0], r"shape \(2,\), not \(1, 2\)"), (EXPECTED * np.nan, "nan")]
)
def test_what_is_no_number_or_of_another_shape_differs(found: Array, says: str) -> None:
    with pytest.raises(ExportMismatchError, match=says):
        compared("a case", found, EXPECTED, "fp32")


def test_fp32_is_advised_only_where_it_is_something_else() -> None:
    hints = {}
    for dtype in TOLERANCES:
        with pytest.raises(ExportMismatchError) as caught:
            compared("a case", -EXPECTED, EXPECTED, dtype)
        hints[dtype] = caught.value.hint
    assert "--dtype fp32" in hints["fp16"]
    assert "--dtype" not in hints["fp32"]
    assert all("part this exporter does not know" in hint for hint in hints.values())

"""An exported graph held against PyTorch, on the same inputs."""

from __future__ import annotations

import numpy as np

from qgraph._exporters.manifest import Check
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array

# Largest difference allowed, as a share of the largest value. Both sides round each sum in another
# order. fp32: 1e-4 is some 800 steps of 2^-23, ample for tens of layers, while a wrong mask or
# position moves logits by percents. fp16: PyTorch rounds after every operation and onnxruntime on
# CPU hardly at all, some 20 steps of 2^-10.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}


class ExportMismatchError(InputError):
    """The exported graph computes something else than PyTorch."""

    def __init__(self, what: str, case: str) -> None:
        super().__init__(
            f"the exported graph does not compute what PyTorch does: {what}",
            where=case,
            hint="Try --dtype fp32; if that differs too, the checkpoint has a part this exporter"
            " does not know. Nothing was written.",
        )


def compared(case: str, found: Array, expected: Array, tolerance: float) -> Check:
    """Return the largest difference of two arrays, in their own units.

    Raises:
        ExportMismatchError: it is above `tolerance` times the largest of `expected` (at least 1),
            there is a NaN, or the shapes differ.
    """
    if found.shape != expected.shape:
        raise ExportMismatchError(f"found the shape {found.shape}, not {expected.shape}", case)
    difference = float(np.abs(found.astype(np.float32) - expected).max())
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        what = f"outputs differ by {difference:.3g}, expected at most {allowed:.3g}"
        raise ExportMismatchError(what, case)
    return Check(case=case, max_abs_difference=difference)

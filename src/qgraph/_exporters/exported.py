"""What exports have in common: the trace, its opset, names of weights, and PyTorch on the same
inputs to hold the graph against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import version_converter

from qgraph._exporters.manifest import Check
from qgraph._graph.errors import InputError
from qgraph._graph.index import GraphIndex
from qgraph._graph.tensors import Array

DEFAULT_OPSET, TRACED_OPSET = 21, 20
"""What is written if nobody asks for another, and the highest of torch's TorchScript exporter."""

# Largest difference allowed, as a share of the largest value. Both sides round each sum in another
# order. fp32: 1e-4 is some 800 steps of 2^-23, ample for tens of layers, while a wrong mask or
# position moves logits by percents. fp16: PyTorch rounds after every operation and onnxruntime on
# CPU hardly at all, some 20 steps of 2^-10.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}


class ExportMismatchError(InputError):
    """The exported graph computes something else than PyTorch."""

    def __init__(self, what: str, case: str, dtype: str) -> None:
        start = "Try --dtype fp32; if that differs too, the" if dtype == "fp16" else "The"
        super().__init__(
            f"the exported graph does not compute what PyTorch does: {what}",
            where=case,
            hint=f"{start} checkpoint has a part this exporter does not know. Nothing was written.",
        )


@contextmanager
def tracing(what: str, where: str = "", hint: str = "") -> Iterator[None]:
    """Say `what` failed, and why: tracing raises whatever the traced code meets.

    Raises:
        InputError: it failed.
    """
    try:
        yield
    except Exception as error:
        why = str(error).strip() or type(error).__name__
        raise InputError(f"{what}: {why}", where=where, hint=hint) from error


def at_opset(traced: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a model that was traced at `opset`, or the nearest there was, at `opset`."""
    return version_converter.convert_version(traced, opset) if opset > TRACED_OPSET else traced


def compared(
    case: str, found: Array, expected: Array, dtype: str, tolerance: float | None = None
) -> Check:
    """Return the largest difference of two arrays, in their own units. `dtype`: the graph's.

    Raises:
        ExportMismatchError: it is above `tolerance` (that of `dtype` where none is given) times the
            largest of `expected` (at least 1), there is a NaN, or the shapes differ.
    """
    if found.shape != expected.shape:
        what = f"found the shape {found.shape}, not {expected.shape}"
        raise ExportMismatchError(what, case, dtype)
    difference = float(np.abs(found.astype(np.float32) - expected).max())
    allowed = (tolerance or TOLERANCES[dtype]) * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        what = f"outputs differ by {difference:.3g}, expected at most {allowed:.3g}"
        raise ExportMismatchError(what, case, dtype)
    return Check(case=case, max_abs_difference=difference)


def name_weights(model: onnx.ModelProto) -> None:
    """Rename `onnx::MatMul_123` after the only node that reads it: `/a/b/MatMul` → `a.b.weight`.

    Such a weight is the transpose of the checkpoint's: [in, out]. The tracer's numbers say nothing
    and change with unrelated parts of the graph.
    """
    index = GraphIndex(model)
    taken = set(index.initializers)
    renamed: dict[str, str] = {}
    for tensor in model.graph.initializer:
        readers, uses = index.readers(tensor.name), index.uses(tensor.name)
        # what a body reads keeps its name
        if re.fullmatch(r"onnx::\w+_\d+", tensor.name) and len(readers) == len(uses) == 1:
            kind = "bias" if len(tensor.dims) == 1 else "weight"
            name = ".".join([*readers[0].name.strip("/").split("/")[:-1], kind])
            if name not in taken:
                renamed[tensor.name] = name
                taken.add(name)
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]

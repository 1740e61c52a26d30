"""What is replaced while INC works: sessions, which run on the CPU whatever its scheme is called,
and `onnx.mapping`, which onnx dropped in 1.19 and INC still reads.

INC opens its TensorRT scheme on the TensorRT provider: where that is missing onnxruntime falls
back with a warning, where it is present an engine is built per node. The scheme is a matter of
numbers, so both schemes are scored by the same provider. `as_written` opens them without fusing
Q/DQ into integer kernels, to tell INC's arithmetic from its placement.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

_CPU = ["CPUExecutionProvider"]


class _Pinned:
    """onnxruntime, except that sessions open on the CPU."""

    def __init__(self, *, as_written: bool) -> None:
        self._as_written = as_written

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def InferenceSession(  # noqa: N802 - stands for onnxruntime's class
        self, model: Any, options: Any = None, providers: Any = None
    ) -> ort.InferenceSession:
        options = options or ort.SessionOptions()
        if self._as_written:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return ort.InferenceSession(model, options, providers=_CPU)


@contextlib.contextmanager
def pinned_to_cpu(
    modules: Sequence[tuple[ModuleType, str]], *, as_written: bool = False
) -> Iterator[None]:
    """Replace onnxruntime in `modules`, each given with the name it has there."""
    before = [(module, name, getattr(module, name)) for module, name in modules]
    try:
        for module, name, _ in before:
            setattr(module, name, _Pinned(as_written=as_written))
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)


_NAME = "onnx.mapping"
_PLAIN = (
    *(TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16),
    *(TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL),
    *(TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT32, TensorProto.UINT64),
)


@contextlib.contextmanager
def onnx_mapping() -> Iterator[None]:
    """Provide the two tables of `onnx.mapping` that INC uses; take them away again."""
    if hasattr(onnx, "mapping"):
        yield
        return
    module = ModuleType(_NAME)
    forward = {int(kind): np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for kind in _PLAIN}
    module.__dict__["TENSOR_TYPE_TO_NP_TYPE"] = forward
    module.__dict__["NP_TYPE_TO_TENSOR_TYPE"] = {dtype: kind for kind, dtype in forward.items()}
    sys.modules[_NAME] = module
    onnx.__dict__["mapping"] = module
    try:
        yield
    finally:
        del sys.modules[_NAME]
        del onnx.__dict__["mapping"]

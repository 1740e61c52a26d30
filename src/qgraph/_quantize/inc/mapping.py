"""`onnx.mapping`, which onnx dropped in 1.19 and INC still reads: there while INC works."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import onnx
from onnx import TensorProto, helper

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

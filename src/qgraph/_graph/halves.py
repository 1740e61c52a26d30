"""From half precision to single and back, by onnxruntime: it uses the processor's instructions for
it, where numpy goes number by number in eight times the time. Both round halves to even.
"""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime as ort
from onnx import helper

from qgraph._graph.bodies import one_node
from qgraph._graph.tensors import Array

_SMALL = 1 << 14
"""Numbers that numpy converts before a session has begun."""
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)


def cast(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return `array` in `dtype`; itself where it is of that type. Beyond float16 is infinity."""
    if array.dtype == dtype:
        return array
    if array.size < _SMALL or {array.dtype, dtype} != {_HALF, _SINGLE}:
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    made = np.empty(array.shape, dtype)
    session = _session(array.dtype, dtype)
    binding = session.io_binding()
    binding.bind_cpu_input("x", np.ascontiguousarray(array).reshape(-1))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(made.reshape(-1)))
    session.run_with_iobinding(binding)
    return made


@functools.cache
def _session(given: np.dtype[np.generic], wanted: np.dtype[np.generic]) -> ort.InferenceSession:
    """Return a session that converts in the thread it is called in; several may at once."""
    element_types = [helper.np_dtype_to_tensor_dtype(dtype) for dtype in (given, wanted)]
    node = helper.make_node("Cast", ["x"], ["y"], to=element_types[1])
    ends = [
        helper.make_tensor_value_info(name, element_type, ["n"])
        for name, element_type in zip("xy", element_types, strict=True)
    ]
    model = one_node(node, ends[:1], ends[1:])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

"""Sessions that run on the CPU whatever INC's scheme is called.

INC opens its TensorRT scheme on the TensorRT provider: where that is missing onnxruntime falls
back with a warning, where it is present an engine is built per node. The scheme is a matter of
numbers, so both schemes are scored by the same provider. `as_written` opens them without fusing
Q/DQ into integer kernels, to tell INC's arithmetic from its placement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import onnxruntime as ort

_CPU = ["CPUExecutionProvider"]


class _Pinned:
    """onnxruntime, except that sessions open on the CPU."""

    def __init__(self, *, as_written: bool) -> None:
        self._as_written = as_written

    def __getattr__(self, name: str) -> Any:
        return getattr(ort, name)

    def InferenceSession(  # noqa: N802 - stands for onnxruntime's class
        self,
        model: Any,
        options: Any = None,
        providers: Any = None,
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

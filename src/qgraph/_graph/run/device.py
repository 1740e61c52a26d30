"""The device that figures are taken on: what it is called, and how much of its memory is in use.

NVML is asked through nvidia-ml-py, which the `cuda` extra brings; without it, or without a GPU,
there is nothing to say.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def describe_gpu() -> str | None:
    """Return the name of the GPU that CUDA uses, its memory and driver; None if NVML is silent."""
    with contextlib.suppress(Exception), _gpu() as (nvml, handle):
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        return f"{_text(nvml.nvmlDeviceGetName(handle))}, {memory} MiB, driver {driver}"
    return None


def device_memory_in_use() -> int | None:
    """Return the bytes all processes hold on the GPU that CUDA uses; None if NVML is silent."""
    with contextlib.suppress(Exception), _gpu() as (nvml, handle):
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    return None


@contextlib.contextmanager
def _gpu() -> Iterator[tuple[Any, Any]]:
    """Yield NVML and the first GPU that CUDA may use: NVML itself sees them all."""
    import pynvml  # an optional package; without it there are no figures

    pynvml.nvmlInit()
    try:
        first = os.environ.get(_VISIBLE, "0").split(",")[0].strip()
        by_number = first.isdigit()
        find = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
        yield pynvml, find(int(first) if by_number else first)
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    """Return a string; older versions of the package give bytes."""
    return value.decode() if isinstance(value, bytes) else value

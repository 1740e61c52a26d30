"""Where models run: onnxruntime's execution providers, and whether this machine has them.

Of a GPU, NVML says what it is called and how much of its memory is in use, through nvidia-ml-py,
which the `cuda` extra brings; without it, or without a GPU, there is nothing to say.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnxruntime as ort

from qgraph._graph.errors import EnvironmentFault, install

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


class Provider(StrEnum):
    """Where to run. `cuda` never falls back to the CPU: without CUDA it is an error."""

    CPU = "cpu"
    CUDA = "cuda"

    @property
    def execution_provider(self) -> str:
        """Onnxruntime's name of it."""
        return {Provider.CPU: "CPUExecutionProvider", Provider.CUDA: "CUDAExecutionProvider"}[self]


def require_provider(provider: Provider) -> None:
    """Check that `provider` can work on this machine.

    Raises:
        EnvironmentFault: it cannot; the message says what is missing.
    """
    if provider is Provider.CPU:
        return
    if provider.execution_provider not in ort.get_available_providers():
        raise unusable(provider)
    with contextlib.suppress(Exception), quiet_stderr(provider):
        ort.preload_dlls()
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if library.exists():
        try:
            ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), _GLOBAL)
            ctypes.CDLL(str(library))
        except OSError as error:
            raise unusable(provider, str(error)) from error


def describe_device(provider: Provider) -> str:
    """Return what the figures were taken on: the processor's count, or the GPU."""
    if provider is Provider.CPU:
        return f"cpu x{os.cpu_count()}"
    return describe_gpu() or str(provider)


def unusable(provider: Provider, detail: str = "") -> EnvironmentFault:
    """Return the error that says why `provider` cannot be used, and what would help."""
    found = ", ".join(ort.get_available_providers())
    reason = f": {detail}" if detail else ""
    return EnvironmentFault(
        f"{provider.execution_provider} was asked for but cannot be used{reason} (onnxruntime "
        f"{ort.__version__} was built with {found})",
        hint="Install CUDA and cuDNN, or use --provider cpu. Both come with the extra cuda:"
        f" {install('cuda')}.",
    )


@contextlib.contextmanager
def quiet_stderr(provider: Provider) -> Iterator[None]:
    """Hold back what onnxruntime's loader writes to file descriptor 2 when CUDA fails.

    The same facts are in the error raised afterwards.
    """
    if provider is Provider.CPU:
        yield
        return
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


_GLOBAL = getattr(ctypes, "RTLD_GLOBAL", 0)

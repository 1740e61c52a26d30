"""onnxruntime sessions that run where they were told to, and compute what the graph says.

`Semantics.EXACT` executes Q/DQ as written (no fusion into kernels with other rounding): accuracy
is measured so. `Semantics.FAST` leaves every optimization on: latency is measured so.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from graph.errors import EnvironmentFault, InputError, QGraphError
from graph.io.models import read_model
from graph.runtime.device import describe_gpu
from graph.runtime.failures import failure
from graph.runtime.initializers import split
from graph.tensors import Array, Feed


class Provider(StrEnum):
    """Where to run. `cuda` never falls back: without CUDA it is an error."""

    CPU = "cpu"
    CUDA = "cuda"


class Semantics(StrEnum):
    """What the optimizer may do to Q/DQ."""

    EXACT = "exact"
    FAST = "fast"


_NAMES = {Provider.CPU: "CPUExecutionProvider", Provider.CUDA: "CUDAExecutionProvider"}
_DEVICES = {Provider.CPU: "cpu", Provider.CUDA: "cuda"}
_COMPUTE = {"MatMul", "Gemm", "Conv", "ConvTranspose", "FusedMatMul", "FusedConv", "FusedGemm"}


class Session:
    """An open model. `run` takes a feed and returns outputs by name."""

    def __init__(
        self, session: ort.InferenceSession, provider: Provider, fixed: Feed | None = None
    ) -> None:
        self._session = session
        self._fixed = fixed or {}
        self.provider = provider
        given = (item.name for item in session.get_inputs())
        self.inputs = tuple(name for name in given if name not in self._fixed)
        self.outputs = tuple(item.name for item in session.get_outputs())

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Return the outputs, all or those named.

        Raises:
            InputError: the runtime refuses the feed or fails on the model.
            EnvironmentFault: the GPU failed, or was lost.
            LimitError: the GPU's memory is full.
        """
        names = list(outputs if outputs is not None else self.outputs)
        if not names:  # for onnxruntime an empty list means all
            return {}
        try:
            return dict(zip(names, self._session.run(names, feed | self._fixed), strict=True))
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise self._failed(error) from error

    def fixing(self, feed: Feed) -> Session:
        """Return the same session with some inputs given already."""
        return Session(self._session, self.provider, self._fixed | feed)

    def placement(self) -> dict[str, int]:
        """Return provider name → number of nodes it runs, as the runtime itself reports."""
        counts: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
        return dict(sorted(counts.items()))

    def elsewhere(self) -> dict[str, int]:
        """Return operator → how many of its nodes run on another provider than was asked for."""
        counts: Counter[str] = Counter()
        for part in self._session.get_provider_graph_assignment_info():
            if part.ep_name != _NAMES[self.provider]:
                counts.update(node.op_type for node in part.get_nodes())
        return dict(sorted(counts.items()))

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Return a run of `feed` that copies nothing to or from the device: what is timed.

        Inputs lie on the device beforehand, outputs stay there; the call returns when they are
        complete.

        Raises:
            InputError, EnvironmentFault, LimitError: as `run` does, when it is called.
        """
        device = _DEVICES[self.provider]
        binding = self._session.io_binding()
        for name, array in (feed | self._fixed).items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, device, 0)

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()
            except Exception as error:  # onnxruntime's own exception types share no public base
                raise self._failed(error) from error

        return run

    def run_bound(self, feed: Mapping[str, Array | ort.OrtValue]) -> dict[str, ort.OrtValue]:
        """Return all outputs, left on the device; inputs that lie there are not copied.

        Raises:
            InputError, EnvironmentFault, LimitError: as `run` does.
        """
        binding = self._session.io_binding()
        try:
            for name, value in (dict(feed) | self._fixed).items():
                if isinstance(value, ort.OrtValue):
                    binding.bind_ortvalue_input(name, value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
            for name in self.outputs:
                binding.bind_output(name, _DEVICES[self.provider], 0)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise self._failed(error) from error
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def _failed(self, error: Exception) -> QGraphError:
        doing = "onnxruntime failed to run the model"
        return failure(error, doing, on_gpu=self.provider is Provider.CUDA)

    def compute_nodes_off(self, provider: Provider) -> list[str]:
        """Return the MatMuls, Gemms and convolutions that `provider` does not run."""
        return [
            node.name
            for part in self._session.get_provider_graph_assignment_info()
            if part.ep_name != _NAMES[provider]
            for node in part.get_nodes()
            if node.op_type in _COMPUTE
        ]


def open_session(
    model: onnx.ModelProto | Path,
    provider: Provider = Provider.CPU,
    semantics: Semantics = Semantics.EXACT,
    *,
    allow_cpu_nodes: bool = False,
    threads: int | None = None,
    weights: Mapping[str, Array] | None = None,
) -> Session:
    """Return a session for `model` on `provider`.

    `weights`: values of the initializers made by `graph.io.weights.stub`. `threads`: how many a run
    may use, where other sessions run right after it or beside it: they do not spin in wait for more
    work, which would take the cores from the session at work. None: a thread per core, spinning.

    Raises:
        EnvironmentFault: the provider is not there, or leaves compute nodes to the CPU.
        InputError: onnxruntime refuses the model.
    """
    require_provider(provider)
    fp8 = _holds_fp8(model)
    options = _options(semantics, threads, fp8=fp8)
    source: Any
    if isinstance(model, onnx.ModelProto):
        source, held = split(model, weights or {})
        options.add_external_initializers(list(held), list(held.values()))
    else:  # str() of a model would spell out all its weights
        source = str(model)
    try:
        with _quiet_stderr(provider):
            raw = ort.InferenceSession(
                source,
                options,
                providers=_providers(provider, semantics),
                disabled_optimizers=_RELU_TO_QUANTIZE if fp8 else [],
            )
    except Exception as error:  # onnxruntime's own exception types share no public base
        where = str(model) if isinstance(model, Path) else ""
        on_gpu, hint = provider is Provider.CUDA, _hint(error)
        raise failure(
            error, "onnxruntime refuses it", on_gpu=on_gpu, where=where, hint=hint
        ) from error
    if _NAMES[provider] not in raw.get_providers():
        raise _missing(provider)
    session = Session(raw, provider)
    if not allow_cpu_nodes:
        require_placed(session, provider)
    return session


_RELU_TO_QUANTIZE = ["ReluQuantRewrite"]
"""Takes a Relu before a QuantizeLinear away where 0 is the lowest number. onnxruntime 1.31 mistakes
FP8's 0 for that, and negative numbers pass."""


def _holds_fp8(model: onnx.ModelProto | Path) -> bool:
    if isinstance(model, Path):
        try:
            model = read_model(model, weights=False)
        except InputError:  # onnxruntime will say what it finds
            return False
    kinds = (tensor.data_type for tensor in model.graph.initializer)
    return onnx.TensorProto.FLOAT8E4M3FN in kinds


def require_placed(session: Session, provider: Provider) -> None:
    """Check that `provider` runs every node that computes.

    Raises:
        EnvironmentFault: it leaves some to the CPU; the message counts them and names the first.
    """
    strays = session.compute_nodes_off(provider)
    if strays:
        raise EnvironmentFault(
            f"{len(strays)} compute nodes would run on the CPU, first {strays[0]!r}",
            hint="Use --provider cpu, or accept it with --allow-cpu-nodes where it is offered.",
        )


def require_provider(provider: Provider) -> None:
    """Check that `provider` can work on this machine.

    Raises:
        EnvironmentFault: it cannot; the message says what is missing.
    """
    if provider is Provider.CPU:
        return
    if _NAMES[provider] not in ort.get_available_providers():
        raise _missing(provider)
    with contextlib.suppress(Exception), _quiet_stderr(provider):
        ort.preload_dlls()
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if library.exists():
        try:
            ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), _GLOBAL)
            ctypes.CDLL(str(library))
        except OSError as error:
            raise _missing(provider, str(error)) from error


_GLOBAL = getattr(ctypes, "RTLD_GLOBAL", 0)


def describe_device(provider: Provider) -> str:
    """Return what the figures were taken on: the processor's count, or the GPU."""
    if provider is Provider.CPU:
        return f"cpu x{os.cpu_count()}"
    return describe_gpu() or str(provider)


def session_settings(provider: Provider, semantics: Semantics) -> dict[str, str]:
    """Return what onnxruntime is told beyond its defaults, for a report to record."""
    return {
        "provider": _NAMES[provider],
        **_entries(semantics),
        **_device_options(provider, semantics),
    }


def _providers(provider: Provider, semantics: Semantics) -> list[Any]:
    if provider is Provider.CPU:
        return [_NAMES[Provider.CPU]]
    # Shape arithmetic and `If` conditions belong on the CPU even so; what must not be there is
    # checked after opening.
    return [(_NAMES[provider], _device_options(provider, semantics)), _NAMES[Provider.CPU]]


def _device_options(provider: Provider, semantics: Semantics) -> dict[str, str]:
    # TensorFloat-32, CUDA's default for float32 products, would drown small errors in its own.
    exact_on_cuda = provider is Provider.CUDA and semantics is Semantics.EXACT
    return {"use_tf32": "0"} if exact_on_cuda else {}


def _entries(semantics: Semantics) -> dict[str, str]:
    """Return the session's configuration entries.

    For EXACT, Q/DQ is run as written. For FAST, threads spin while a run lasts and not after it:
    where variants are timed in turn, those of one would take the cores from the next.
    """
    own = {
        Semantics.EXACT: {"session.disable_quant_qdq": "1"},
        Semantics.FAST: {"session.force_spinning_stop": "1"},
    }
    return {"session.record_ep_graph_assignment_info": "1", **own[semantics]}


def _options(semantics: Semantics, threads: int | None, *, fp8: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    entries = _entries(semantics)
    if fp8:  # onnxruntime 1.31 fuses FP8 into integer products, and then refuses the graph
        entries |= _entries(Semantics.EXACT)
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.intra_op_num_threads = threads
    return options


def _missing(provider: Provider, detail: str = "") -> EnvironmentFault:
    found = ", ".join(ort.get_available_providers())
    reason = f": {detail}" if detail else ""
    return EnvironmentFault(
        f"{_NAMES[provider]} was asked for but cannot be used{reason} (onnxruntime "
        f"{ort.__version__} was built with {found})",
        hint="Install CUDA and cuDNN (pip install '.[cuda]' brings both), or use --provider cpu.",
    )


def _hint(error: Exception) -> str:
    if "IR version" in str(error):
        return "Load it with onnx, set model.ir_version = 10 and save it: nothing else changes."
    return ""


@contextlib.contextmanager
def _quiet_stderr(provider: Provider) -> Any:
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

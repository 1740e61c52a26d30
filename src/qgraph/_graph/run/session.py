"""onnxruntime sessions that run where they were told to, and compute what the graph says.

`Semantics.EXACT` executes Q/DQ as written (no fusion into kernels with other rounding): accuracy
is measured so. `Semantics.FAST` leaves every optimization on: latency is measured so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from qgraph._graph.errors import EnvironmentFault, InputError, QGraphError
from qgraph._graph.io.models import data_identities, read_model, read_on_disk
from qgraph._graph.limits import step
from qgraph._graph.run.failures import failure
from qgraph._graph.run.initializers import split
from qgraph._graph.run.provider import Provider, quiet_stderr, require_provider, unusable
from qgraph._graph.run.settings import Semantics, providers, session_options
from qgraph._graph.tensors import Array, Feed, aligned

__all__ = ["Provider", "Semantics", "Session", "open_session", "require_placed"]

_COMPUTE = {"MatMul", "Gemm", "Conv", "ConvTranspose", "FusedMatMul", "FusedConv", "FusedGemm"}


class Session:
    """An open model. `run` takes a feed and returns outputs by name. `fixed` and `weights` are
    inputs given already; weights are read where they lie.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        provider: Provider,
        fixed: Feed | None = None,
        weights: Mapping[str, Array] | None = None,
    ) -> None:
        self._session = session
        self._fixed = {name: aligned(array) for name, array in (fixed or {}).items()}
        self._fixed |= weights or {}
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
        with self._running():
            given = {name: aligned(array) for name, array in feed.items()}
            return dict(zip(names, self._session.run(names, given | self._fixed), strict=True))

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Say what it means where onnxruntime fails."""
        try:
            with step():
                yield
        except Exception as error:  # onnxruntime's own exception types share no public base
            on_gpu = self.provider is Provider.CUDA
            raise failure(error, "onnxruntime failed to run the model", on_gpu=on_gpu) from error

    def fixing(self, feed: Feed) -> Session:
        """Return the same session with some inputs given already."""
        return Session(self._session, self.provider, feed, self._fixed)

    def _placed(self) -> Iterator[tuple[str, Any]]:
        """Yield (provider name, node) as the runtime itself reports."""
        for part in self._session.get_provider_graph_assignment_info():
            yield from ((part.ep_name, node) for node in part.get_nodes())

    def placement(self) -> dict[str, int]:
        """Return provider name → number of nodes it runs."""
        return dict(sorted(Counter(name for name, _ in self._placed()).items()))

    def elsewhere(self) -> dict[str, int]:
        """Return operator → how many of its nodes run on another provider than was asked for."""
        own = self.provider.execution_provider
        strays = (node.op_type for name, node in self._placed() if name != own)
        return dict(sorted(Counter(strays).items()))

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Return a run of `feed` that copies nothing to or from the device: what is timed.

        Inputs lie on the device beforehand, outputs stay there; the call returns when they are
        complete.

        Raises:
            InputError, EnvironmentFault, LimitError: as `run` does, when it is called.
        """
        device = str(self.provider)
        binding = self._session.io_binding()
        for name, array in (feed | self._fixed).items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, device, 0)

        def run() -> None:
            with self._running():
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()

        return run

    def run_bound(self, feed: Mapping[str, Array | ort.OrtValue]) -> dict[str, ort.OrtValue]:
        """Return all outputs, left on the device; inputs that lie there are not copied.

        Raises:
            InputError, EnvironmentFault, LimitError: as `run` does.
        """
        binding = self._session.io_binding()
        with self._running():
            for name, value in (dict(feed) | self._fixed).items():
                if isinstance(value, ort.OrtValue):
                    binding.bind_ortvalue_input(name, value)
                else:
                    binding.bind_cpu_input(name, aligned(np.ascontiguousarray(value)))
            for name in self.outputs:
                binding.bind_output(name, str(self.provider), 0)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def compute_nodes_off(self, provider: Provider) -> list[str]:
        """Return the MatMuls, Gemms and convolutions that `provider` does not run."""
        own = provider.execution_provider
        strays = (node for name, node in self._placed() if name != own)
        return [node.name for node in strays if node.op_type in _COMPUTE]


def open_session(
    model: onnx.ModelProto | Path,
    provider: Provider = Provider.CPU,
    semantics: Semantics = Semantics.EXACT,
    *,
    allow_cpu_nodes: bool = False,
    threads: int | None = None,
    weights: Mapping[str, Array] | None = None,
    by_name: bool = False,
    share: bool = True,
    pack: bool = True,
    optimize: bool = True,
) -> Session:
    """Return a session for `model` on `provider`.

    Weights in data files are read here, from the files that were checked, and handed over.
    `by_name`: onnxruntime opens the data files itself, as it does for others, so that the memory
    this takes can be measured. `weights`: values of the initializers made by `io.weights.stub`.
    `threads`: how many a run may use, where other sessions run right after it or beside it: they
    do not spin in wait for more work, which would take the cores from the session at work, and
    share what memory runs take. None: a thread per core, spinning, and memory of its own.
    `share`: whether onnxruntime plans which tensors take whose place, in time that grows with the
    square of their number. `pack`: whether it holds weights once more in the layout its kernels
    read, which takes longer than a few runs gain by it. `optimize`: whether it looks for nodes to
    fuse and to leave out, which takes long where there are thousands.

    Raises:
        EnvironmentFault: the provider is not there, or leaves compute nodes to the CPU.
        InputError: onnxruntime refuses the model, or its data files were exchanged meanwhile.
    """
    require_provider(provider)
    path = model if isinstance(model, Path) else None
    found = data_identities(path) if path is not None else []
    if path is not None and found and not by_name:
        model = read_on_disk(path)
    raw, fed = _inference_session(
        model, path, provider, semantics, threads, weights or {}, share=share, pack=pack,
        optimize=optimize,
    )  # fmt: skip
    if path is not None and found and by_name and data_identities(path) != found:
        raise InputError("its data files were exchanged while it was opened", where=str(path))
    if provider.execution_provider not in raw.get_providers():
        raise unusable(provider)
    session = Session(raw, provider, weights=fed)
    if not allow_cpu_nodes:
        require_placed(session, provider)
    return session


def _inference_session(
    model: onnx.ModelProto | Path,
    path: Path | None,
    provider: Provider,
    semantics: Semantics,
    threads: int | None,
    weights: Mapping[str, Array],
    *,
    share: bool,
    pack: bool,
    optimize: bool,
) -> tuple[ort.InferenceSession, Mapping[str, Array]]:
    """Return onnxruntime's session, and the weights that each run is fed; as for `open_session`."""
    fp8 = _holds_fp8(model)
    options = session_options(semantics, threads, fp8=fp8)
    options.enable_mem_reuse = share
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not pack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    source: Any
    fed: Mapping[str, Array] = {}
    if isinstance(model, Path):
        source = str(model)
    else:
        parts = split(model, weights, feed=not pack and provider is Provider.CPU)
        source, fed = parts.message, parts.fed
        options.add_external_initializers(list(parts.held), list(parts.held.values()))
    try:
        with quiet_stderr(provider), step():
            raw = ort.InferenceSession(
                source,
                options,
                providers=providers(provider, semantics),
                disabled_optimizers=_RELU_TO_QUANTIZE if fp8 else [],
            )
    except Exception as error:  # onnxruntime's own exception types share no public base
        raise _refusal(error, path, provider) from error
    return raw, fed


def _refusal(error: Exception, path: Path | None, provider: Provider) -> QGraphError:
    hint = ""
    if "IR version" in str(error):
        hint = "Load it with onnx, set model.ir_version = 10 and save it: nothing else changes."
    on_gpu, where = provider is Provider.CUDA, str(path or "the model")
    return failure(error, "onnxruntime refuses it", on_gpu=on_gpu, where=where, hint=hint)


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

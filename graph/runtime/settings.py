"""What onnxruntime is told when a session opens, beyond its defaults."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import onnxruntime as ort

from graph.runtime.provider import Provider


class Semantics(StrEnum):
    """What the optimizer may do to Q/DQ: nothing (accuracy is measured so), or all it knows
    (latency is).
    """

    EXACT = "exact"
    FAST = "fast"


def session_settings(provider: Provider, semantics: Semantics) -> dict[str, str]:
    """Return what onnxruntime is told beyond its defaults, for a report to record."""
    return {
        "provider": provider.execution_provider,
        **_entries(semantics),
        **_device_options(provider, semantics),
    }


def providers(provider: Provider, semantics: Semantics) -> list[Any]:
    """Return `providers` as `InferenceSession` takes them."""
    cpu = Provider.CPU.execution_provider
    if provider is Provider.CPU:
        return [cpu]
    # Shape arithmetic and `If` conditions belong on the CPU even so; what must not be there is
    # checked after opening.
    return [(provider.execution_provider, _device_options(provider, semantics)), cpu]


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


def session_options(semantics: Semantics, threads: int | None, *, fp8: bool) -> ort.SessionOptions:
    """Return the options; `threads` as `open_session` takes them, `fp8`: whether weights are."""
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

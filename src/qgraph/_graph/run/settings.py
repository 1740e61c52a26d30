"""What onnxruntime is told when a session opens, beyond its defaults."""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import Any

import onnxruntime as ort

from qgraph._graph.run.cores import allowed
from qgraph._graph.run.provider import Provider


class Semantics(StrEnum):
    """What the optimizer may do to Q/DQ: nothing (accuracy is measured so), or all it knows
    (latency is).
    """

    EXACT = "exact"
    FAST = "fast"


_AMONG_OTHERS = {
    "session.intra_op.allow_spinning": "0",
    "session.use_env_allocators": "1",
    "session.use_device_allocator_for_initializers": "1",
}
"""For sessions that take turns: idle threads leave the cores to others, and the memory of a run
comes from one arena of the process. A session's own arena keeps what its largest run took, which
adds up over a session per segment. Weights lie outside, so that closing a session frees theirs."""


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
        _make_arena()
        for key, value in _AMONG_OTHERS.items():
            options.add_session_config_entry(key, value)
        options.intra_op_num_threads = threads
    elif (most := allowed()) is not None:
        options.intra_op_num_threads = most
    return options


@functools.cache
def _make_arena() -> None:
    """Make the arena of this process; it grows by what is asked for, not by powers of two."""
    arena, default = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, ort.OrtMemType.DEFAULT
    place = ort.OrtMemoryInfo("Cpu", arena, 0, default)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": 1}))

"""`engine_times.json`: what a bundle's build script measured on the target, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from qgraph._evaluation.results import Evaluation, Latency
from qgraph._graph.io.documents import Document, Part, read_document
from qgraph._graph.io.models import ModelId


class OutputCheck(Part):
    """One output against its golden values; differences as in the bundle's tolerances."""

    output: str
    ok: bool
    reason: str | None = None
    rms: float | None = None
    rms_allowed: float | None = None
    largest: float | None = None
    largest_allowed: float | None = None


class EngineCase(Part):
    """`gpu_ms`: computing alone; `latency_ms`: with the copies to and from the GPU."""

    name: str
    iterations: int | None = None
    gpu_ms: Latency | None = None
    latency_ms: Latency | None = None
    checks: tuple[OutputCheck, ...] = ()


class EngineTimes(Document):
    """Of one engine, built from the model that `model` names. `target`: trt10 or trt11."""

    SCHEMA: ClassVar[str] = "qgraph.engine_times/1"

    target: str
    model: ModelId
    profile: str | None = None
    engine_bytes: int
    cases: tuple[EngineCase, ...]


def read_engine_times(folder: Path, evaluation: Evaluation) -> tuple[EngineTimes, ...]:
    """Return the times of engines built from the variants of a run.

    They are `engine_times*.json` in its folder, and `engine_times.json` in the folders of it, where
    a bundle's script puts them. Those of other models are left out.

    Raises:
        UsageError: a file is not what it should be.
    """
    paths = [
        *sorted(folder.glob("engine_times*.json")),
        *sorted(folder.glob("*/engine_times.json")),
    ]
    known = {variant.sha256 for variant in evaluation.variants}
    found = [read_document(path, EngineTimes) for path in paths]
    return tuple(item for item in found if item.model.sha256 in known)


def engine_notes(engines: Sequence[EngineTimes]) -> list[str]:
    """Return a sentence on each engine."""
    return [_note(engine) for engine in engines]


def _note(engine: EngineTimes) -> str:
    times = [
        f"{case.name} {case.gpu_ms.p50:.3g} ms" for case in engine.cases if case.gpu_ms is not None
    ]
    wrong = [item.output for case in engine.cases for item in case.checks if not item.ok]
    outputs = f"; wrong outputs: {', '.join(wrong)}" if wrong else ""
    return (
        f"Measured with TensorRT ({engine.target}), {engine.profile or engine.model.path}:"
        f" {', '.join(times) or 'no times'} (median on the GPU),"
        f" engine of {engine.engine_bytes / 1e6:.1f} MB{outputs}."
    )

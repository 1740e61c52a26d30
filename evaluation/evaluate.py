"""Measuring variants side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evaluation.results import Evaluation, EvaluationRun, Latency, Variant
from evaluation.variants import Candidate
from exporters.family import Task
from graph.errors import InputError
from graph.io.models import size_on_disk
from graph.progress import Progress, silent
from graph.runtime.session import Provider, Semantics, Session, describe_device, open_session
from graph.tensors import Feed
from quantize.ranges import ModelRef

_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """`predicted`: variant name → what the profile lets expect."""

    version: str
    packages: Mapping[str, str]
    data: tuple[str, ...]
    provider: Provider = Provider.CPU
    allow_cpu_nodes: bool = False
    latency_runs: int = 30
    predicted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def evaluate(
    candidates: Sequence[Candidate], task: Task, settings: Settings, progress: Progress = silent
) -> Evaluation:
    """Return the figures of every candidate; the first is the float model.

    Raises:
        InputError: the task has no sample.
    """
    if not task.feeds:
        raise InputError("the data holds no sample", where=", ".join(settings.data))
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    variants = tuple(_measure(item, task, settings, progress) for item in candidates)
    return Evaluation(
        schema=Evaluation.SCHEMA,
        model=ModelRef.of(candidates[0].id),
        task=task.name,
        run=EvaluationRun(
            qgraph=settings.version,
            provider=settings.provider,
            device=describe_device(settings.provider),
            samples=len(task.feeds),
            data=settings.data,
            latency_runs=settings.latency_runs,
            packages=dict(settings.packages),
            started=started,
            seconds=time.perf_counter() - clock,
        ),
        variants=variants,
    )


def _measure(candidate: Candidate, task: Task, settings: Settings, progress: Progress) -> Variant:
    session = _open(candidate, settings, Semantics.EXACT)
    metrics = task.measure(candidate.name, session, progress)
    return Variant(
        name=candidate.name,
        profile=candidate.profile,
        backend=candidate.backend,
        dtype=candidate.dtype,
        path=candidate.path.name,
        sha256=candidate.id.sha256,
        metrics=metrics,
        latency_ms=_latency(candidate, task.feeds[0], settings),
        size_bytes=size_on_disk(candidate.path),
        int8_nodes=candidate.int8_nodes,
        predicted=dict(settings.predicted.get(candidate.name, {})),
        placement=session.placement(),
    )


def _open(candidate: Candidate, settings: Settings, semantics: Semantics) -> Session:
    return open_session(
        candidate.path,
        settings.provider,
        semantics,
        allow_cpu_nodes=settings.allow_cpu_nodes,
    )


def _latency(candidate: Candidate, feed: Feed, settings: Settings) -> Latency:
    session = _open(candidate, settings, Semantics.FAST)
    for _ in range(_WARM_UP):
        session.run(feed)
    times = []
    for _ in range(settings.latency_runs):
        start = time.perf_counter()
        session.run(feed)
        times.append((time.perf_counter() - start) * 1e3)
    p50, p90 = np.percentile(times, [50, 90])
    return Latency(p50=float(p50), p90=float(p90))

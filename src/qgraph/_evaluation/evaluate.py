"""Measuring variants side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np

from qgraph._evaluation.footprint import Footprint, measure_footprints
from qgraph._evaluation.intervals import FEWEST, RESAMPLES, Intervals, bootstrap
from qgraph._evaluation.latency import WARM_UP, fit_together, time_variants
from qgraph._evaluation.results import (
    Difference,
    Evaluation,
    EvaluationRun,
    Latency,
    Samples,
    Share,
    Variant,
)
from qgraph._evaluation.sanity import side_by_side
from qgraph._evaluation.variants import Candidate
from qgraph._exporters.family import Said, Stepwise, Suite, Task
from qgraph._exporters.resampling import PerSample, Ratio, Resampled
from qgraph._graph.errors import InputError
from qgraph._graph.io.models import size_on_disk
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.provider import Provider, describe_device
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.run.settings import Semantics, session_settings
from qgraph._graph.tensors import Feed
from qgraph._metrics.table import metric
from qgraph._quantize.ranges import ModelRef

_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Cost:
    """What a node that multiplies matrices takes: MACs of the first sample, parameters."""

    macs: int
    params: int


@dataclass(frozen=True, slots=True)
class Settings:
    """`predicted`: variant name → what the profile lets expect. `costs`: node name → cost, of the
    float model; without it no shares are given.
    """

    version: str
    packages: Mapping[str, str]
    data: tuple[str, ...]
    provider: Provider = Provider.CPU
    allow_cpu_nodes: bool = False
    prompts: str | None = None
    latency_runs: int = 30
    predicted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Quality:
    metrics: dict[str, float]
    samples: PerSample | None
    placement: dict[str, int]
    elsewhere: dict[str, int]
    feeds: dict[str, Feed]
    said: Sequence[Said]


@dataclass(frozen=True, slots=True)
class _Measured:
    """Everything found out about one variant."""

    quality: _Quality
    intervals: Intervals
    latency: Mapping[str, Latency]
    footprint: Footprint | None


def evaluate(
    candidates: Sequence[Candidate],
    task: Task,
    settings: Settings,
    progress: Progress = silent,
    suite: Suite | None = None,
) -> Evaluation:
    """Return the figures of every candidate, and its answers to `suite`; the first is the float
    model.

    Raises:
        InputError: the task has no sample.
        EnvironmentFault: the provider is missing, or leaves compute nodes to the CPU.
    """
    if not task.feeds:
        raise InputError("the data holds no sample", where=", ".join(settings.data))
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    quality = {item.name: _quality(item, task, suite, settings, progress) for item in candidates}
    interleaved = fit_together([item.path for item in candidates])
    feeds = quality[candidates[0].name].feeds
    latency = time_variants(
        {item.name: partial(_open, item, settings, Semantics.FAST) for item in candidates},
        feeds,
        settings.latency_runs,
        progress,
        interleaved=interleaved,
    )
    intervals = _intervals(quality)
    first = next(iter(feeds.values()))
    footprints = _footprints(candidates, settings, first, progress)
    reference = quality[candidates[0].name].metrics
    measured = {
        name: _Measured(quality[name], intervals[name], latency[name], footprints[name])
        for name in quality
    }
    return Evaluation(
        schema=Evaluation.SCHEMA,
        model=ModelRef.of(candidates[0].id),
        task=task.name,
        run=_run(
            settings,
            samples=len(task.feeds),
            interleaved=interleaved,
            resampled=any(item.alone or item.difference for item in intervals.values()),
            started=started,
            seconds=time.perf_counter() - clock,
        ),
        variants=tuple(_variant(c, measured[c.name], reference, settings) for c in candidates),
        sanity=() if suite is None else side_by_side(suite.prompts, _said(quality)),
    )


def _run(
    settings: Settings,
    *,
    samples: int,
    interleaved: bool,
    resampled: bool,
    started: str,
    seconds: float,
) -> EvaluationRun:
    return EvaluationRun(
        qgraph=settings.version,
        provider=settings.provider,
        device=describe_device(settings.provider),
        samples=samples,
        data=settings.data,
        prompts=settings.prompts,
        latency_runs=settings.latency_runs,
        warm_up_runs=WARM_UP,
        interleaved=interleaved,
        sessions={
            "accuracy": session_settings(settings.provider, Semantics.EXACT),
            "latency": session_settings(settings.provider, Semantics.FAST),
        },
        resamples=RESAMPLES if resampled else None,
        packages=dict(settings.packages),
        started=started,
        seconds=seconds,
    )


def _said(quality: Mapping[str, _Quality]) -> dict[str, Sequence[Said]]:
    return {name: item.said for name, item in quality.items()}


def _quality(
    candidate: Candidate,
    task: Task,
    suite: Suite | None,
    settings: Settings,
    progress: Progress,
) -> _Quality:
    session = _open(candidate, settings, Semantics.EXACT)
    metrics = task.measure(candidate.name, session, progress)
    samples = task.per_sample(candidate.name) if isinstance(task, Resampled) else None
    feeds = task.steps(session) if isinstance(task, Stepwise) else {"forward": task.feeds[0]}
    said = [] if suite is None else suite.say(candidate.name, session, progress)
    return _Quality(metrics, samples, session.placement(), session.elsewhere(), feeds, said)


def _open(candidate: Candidate, settings: Settings, semantics: Semantics) -> Session:
    return open_session(
        candidate.path,
        settings.provider,
        semantics,
        allow_cpu_nodes=settings.allow_cpu_nodes,
    )


def _intervals(quality: Mapping[str, _Quality]) -> dict[str, Intervals]:
    samples = {name: item.samples for name, item in quality.items() if item.samples is not None}
    found = bootstrap(samples) if len(samples) == len(quality) else {}
    return {name: found.get(name, Intervals()) for name in quality}


def _footprints(
    candidates: Sequence[Candidate], settings: Settings, feed: Feed, progress: Progress
) -> dict[str, Footprint | None]:
    progress("weighing", 0, 1)
    found = measure_footprints([item.path for item in candidates], settings.provider, feed)
    progress("weighing", 1, 1)
    return {item.name: footprint for item, footprint in zip(candidates, found, strict=True)}


def _variant(
    item: Candidate, found: _Measured, reference: Mapping[str, float], settings: Settings
) -> Variant:
    quality, memory = found.quality, found.footprint
    forward, *more = found.latency.values()
    return Variant(
        name=item.name,
        profile=item.profile,
        backend=item.backend,
        dtype=item.dtype,
        scheme=item.scheme,
        path=item.path.name,
        sha256=item.id.sha256,
        metrics=quality.metrics,
        intervals=found.intervals.alone,
        differences={} if item.is_float else _differences(found, reference),
        latency_ms=forward,
        decode_ms=more[0] if more else None,
        size_bytes=size_on_disk(item.path),
        weight_bytes=item.weight_bytes,
        memory_bytes=memory.host if memory else None,
        device_memory_bytes=memory.device if memory else None,
        int8_nodes=len(item.int8_nodes),
        quantized_to=item.quantized_to,
        computed_in=_computed_in(item, settings.provider),
        int8_share=_share(item, settings.costs),
        predicted=dict(settings.predicted.get(item.name, {})),
        placement=quality.placement,
        elsewhere=quality.elsewhere,
        samples=_kept(found),
    )


def _computed_in(item: Candidate, provider: Provider) -> str | None:
    """Return the type a half-precision graph is computed in, where that is not its own."""
    return "fp32" if provider is Provider.CPU and item.dtype in ("fp16", "bf16") else None


def _differences(found: _Measured, reference: Mapping[str, float]) -> dict[str, Difference]:
    return {
        key: Difference(
            value=value - reference[key],
            interval=found.intervals.difference.get(key),
            doubtful=key in found.intervals.doubtful,
        )
        for key, value in found.quality.metrics.items()
        if key in reference
    }


def _kept(found: _Measured) -> dict[str, Samples]:
    """Return what another evaluation can be compared with sample by sample."""
    samples = found.quality.samples
    if samples is None or samples.count < FEWEST:
        return {}
    ratios = dict(samples.ratios())
    for key, figure in found.intervals.figures.items():
        # the mean of the jackknife's pseudo-values is the figure: of average precision, say
        if key not in ratios and not metric(key).by_parts:
            ones = np.ones_like(figure.influence)
            ratios[key] = Ratio(figure.value + figure.influence, ones)
    return {
        key: Samples(
            numerator=tuple(map(_rounded, ratio.numerator)),
            denominator=tuple(map(_rounded, ratio.denominator)),
        )
        for key, ratio in ratios.items()
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _share(item: Candidate, costs: Mapping[str, Cost]) -> Share | None:
    """Return the share in INT8; None where the model's names are not the float model's."""
    names = {name if name in costs else name.removesuffix("_quant") for name in item.int8_nodes}
    if not costs or not names <= costs.keys():
        return None

    def share(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    return Share(
        nodes=share(len(names), len(costs)),
        macs=share(sum(costs[n].macs for n in names), sum(c.macs for c in costs.values())),
        params=share(sum(costs[n].params for n in names), sum(c.params for c in costs.values())),
    )

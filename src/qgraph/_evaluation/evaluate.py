"""Measuring variants side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from qgraph._evaluation.entry import Measured, Quality, entry
from qgraph._evaluation.footprint import Footprint, measure_footprints
from qgraph._evaluation.intervals import RESAMPLES, Intervals, bootstrap
from qgraph._evaluation.latency import WARM_UP, fit_together, time_variants
from qgraph._evaluation.results import Evaluation, EvaluationRun
from qgraph._evaluation.sanity import side_by_side
from qgraph._evaluation.settings import EvaluationSettings
from qgraph._evaluation.variants import InspectedModel
from qgraph._exporters.family import Stepwise, Suite, Task
from qgraph._exporters.resampling import Resampled
from qgraph._graph.errors import InputError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.provider import describe_device
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.run.settings import Semantics, session_settings
from qgraph._graph.tensors import Feed
from qgraph._quantize.ranges import ModelRef


def evaluate(
    models: Sequence[InspectedModel],
    task: Task,
    settings: EvaluationSettings,
    progress: Progress = silent,
    suite: Suite | None = None,
) -> Evaluation:
    """Return the figures of every model, and its answers to `suite`; the first is the float
    model.

    Raises:
        InputError: the task has no sample.
        EnvironmentFault: the provider is missing, or leaves compute nodes to the CPU.
    """
    if not task.feeds:
        raise InputError("the data holds no sample", where=", ".join(settings.data))
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    interleaved = fit_together([item.path for item in models])
    measured = _measure(models, task, settings, progress, suite, interleaved=interleaved)
    qualities = {name: found.quality for name, found in measured.items()}
    reference = qualities[models[0].name].metrics
    return Evaluation(
        schema=Evaluation.SCHEMA,
        model=ModelRef.of(models[0].id),
        task=task.name,
        run=EvaluationRun(
            qgraph=settings.version,
            provider=settings.provider,
            device=describe_device(settings.provider),
            samples=len(task.feeds),
            data=settings.data,
            prompts=settings.prompts,
            latency_runs=settings.latency_runs,
            warm_up_runs=WARM_UP,
            interleaved=interleaved,
            sessions={
                "accuracy": session_settings(settings.provider, Semantics.EXACT),
                "latency": session_settings(settings.provider, Semantics.FAST),
            },
            resamples=RESAMPLES if _has_intervals(measured) else None,
            packages=dict(settings.packages),
            started=started,
            seconds=time.perf_counter() - clock,
        ),
        variants=tuple(entry(it, measured[it.name], reference, settings) for it in models),
        sanity=()
        if suite is None
        else side_by_side(suite.prompts, {name: it.said for name, it in qualities.items()}),
    )


def _measure(
    models: Sequence[InspectedModel],
    task: Task,
    settings: EvaluationSettings,
    progress: Progress,
    suite: Suite | None,
    *,
    interleaved: bool,
) -> dict[str, Measured]:
    """Return variant → what was found out about it: quality first, then times, then memory."""
    quality = {item.name: _quality(item, task, suite, settings, progress) for item in models}
    feeds = quality[models[0].name].feeds
    latency = time_variants(
        {item.name: partial(_open, item, settings, Semantics.FAST) for item in models},
        feeds,
        settings.latency_runs,
        progress,
        interleaved=interleaved,
    )
    intervals = _intervals(quality)
    footprints = _footprints(models, settings, next(iter(feeds.values())), progress)
    return {
        name: Measured(found, intervals[name], latency[name], footprints[name])
        for name, found in quality.items()
    }


def _has_intervals(measured: Mapping[str, Measured]) -> bool:
    found = [item.intervals for item in measured.values()]
    return any(item.alone or item.difference for item in found)


def _quality(
    model: InspectedModel,
    task: Task,
    suite: Suite | None,
    settings: EvaluationSettings,
    progress: Progress,
) -> Quality:
    session = _open(model, settings, Semantics.EXACT)
    metrics = task.measure(model.name, session, progress)
    samples = task.per_sample(model.name) if isinstance(task, Resampled) else None
    feeds = task.steps(session) if isinstance(task, Stepwise) else {"forward": task.feeds[0]}
    said = [] if suite is None else suite.say(model.name, session, progress)
    return Quality(metrics, samples, session.placement(), session.elsewhere(), feeds, said)


def _open(model: InspectedModel, settings: EvaluationSettings, semantics: Semantics) -> Session:
    return open_session(
        model.path,
        settings.provider,
        semantics,
        allow_cpu_nodes=settings.allow_cpu_nodes,
    )


def _intervals(quality: Mapping[str, Quality]) -> dict[str, Intervals]:
    samples = {name: item.samples for name, item in quality.items() if item.samples is not None}
    found = bootstrap(samples) if len(samples) == len(quality) else {}
    return {name: found.get(name, Intervals()) for name in quality}


def _footprints(
    models: Sequence[InspectedModel],
    settings: EvaluationSettings,
    feed: Feed,
    progress: Progress,
) -> dict[str, Footprint | None]:
    progress("weighing", 0, 1)
    found = measure_footprints([item.path for item in models], settings.provider, feed)
    progress("weighing", 1, 1)
    return {item.name: footprint for item, footprint in zip(models, found, strict=True)}

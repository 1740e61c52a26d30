"""Measuring variants side by side."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from qgraph._evaluation.entry import Measured, Quality, entry
from qgraph._evaluation.footprint import Footprint, measure_footprints
from qgraph._evaluation.intervals import RESAMPLES, Intervals, bootstrap
from qgraph._evaluation.kept_observations import KeptObservations
from qgraph._evaluation.latency import FAULTS, WARM_UP, fit_together, time_variants
from qgraph._evaluation.observing import VariantObservations, open_variant, session_of
from qgraph._evaluation.own_metrics import Joined, measure_own
from qgraph._evaluation.results import Evaluation, EvaluationRun, Latency, Unmeasured
from qgraph._evaluation.sanity import side_by_side
from qgraph._evaluation.settings import EvaluationSettings
from qgraph._evaluation.variants import InspectedModel
from qgraph._exporters.family import Suite
from qgraph._exporters.resampling import PerSample, Resampled
from qgraph._exporters.tasks import ComparesOutputs, ObservesSamples, Stepwise, Task
from qgraph._graph.errors import QGraphError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.feeds import require_samples
from qgraph._graph.run.provider import describe_device
from qgraph._graph.run.session import Session
from qgraph._graph.run.settings import Semantics, session_settings
from qgraph._graph.tensors import Feed
from qgraph._quantize.ranges import ModelRef
from qgraph._sensitivity.scoring.work import digest_of_feed

_SESSIONS = {"accuracy": Semantics.EXACT, "latency": Semantics.FAST}


def evaluate(
    models: Sequence[InspectedModel],
    task: Task,
    settings: EvaluationSettings,
    progress: Progress = silent,
    suite: Suite | None = None,
    kept: KeptObservations | None = None,
) -> Evaluation:
    """Return the figures of every model, and its answers to `suite`; the first is the float
    model. `kept`: what is known already, of a task that goes by samples; the rest is added.

    Raises:
        InputError: the task has no sample.
        EnvironmentFault: the provider is missing, or leaves compute nodes to the CPU.
    """
    require_samples(task.feeds, settings.data)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    interleaved = fit_together([item.path for item in models])
    failures: list[Unmeasured] = []
    quality = _qualities(models, task, suite, settings, progress, failures, kept)
    models = [item for item in models if item.name in quality]
    measured = _measure(models, quality, settings, progress, failures, interleaved=interleaved)
    reference = quality[models[0].name].metrics
    return Evaluation(
        schema=Evaluation.SCHEMA,
        model=ModelRef.of(models[0].id),
        task=task.name,
        run=_run(task, settings, measured, started, clock, interleaved=interleaved),
        variants=tuple(entry(it, measured[it.name], reference, settings) for it in models),
        sanity=()
        if suite is None
        else side_by_side(suite.prompts, {name: it.said for name, it in quality.items()}),
        failures=tuple(failures),
    )


def _run(
    task: Task,
    settings: EvaluationSettings,
    measured: Mapping[str, Measured],
    started: str,
    clock: float,
    *,
    interleaved: bool,
) -> EvaluationRun:
    """Return how the figures came about; `started`, `clock`: when they began to."""
    timed = settings.measures_sessions
    return EvaluationRun(
        qgraph=settings.version,
        provider=settings.provider,
        device=describe_device(settings.provider),
        samples=len(task.feeds),
        data=settings.data,
        data_sha256=_digest(task.feeds),
        prompts=settings.prompts,
        latency_runs=settings.latency_runs if timed else 0,
        warm_up_runs=WARM_UP if timed else None,
        interleaved=interleaved if timed else None,
        sessions={
            what: session_settings(settings.provider, semantics)
            for what, semantics in _SESSIONS.items()
            if timed or what == "accuracy"
        },
        resamples=RESAMPLES if _has_intervals(measured) else None,
        warnings=settings.warnings,
        memory_budget=None if settings.in_parts is None else settings.in_parts.budget,
        packages=dict(settings.packages),
        started=started,
        seconds=time.perf_counter() - clock,
    )


def _digest(feeds: Sequence[Feed]) -> str:
    """Return the SHA-256 of the samples, one after the other."""
    return hashlib.sha256("".join(map(digest_of_feed, feeds)).encode()).hexdigest()


def _qualities(
    models: Sequence[InspectedModel],
    task: Task,
    suite: Suite | None,
    settings: EvaluationSettings,
    progress: Progress,
    failures: list[Unmeasured],
    kept: KeptObservations | None,
) -> dict[str, Quality]:
    """Return variant → what the task says of it; what cannot be measured goes to `failures`.

    Raises:
        QGraphError: of the float model, without which there is nothing to compare with.
    """
    found: dict[str, Quality] = {}
    for item in models:
        try:
            found[item.name] = _quality(item, task, suite, settings, progress, kept)
        except FAULTS as error:
            if item is models[0]:
                raise
            failures.append(_failure(item, "metrics", error))
    return found


def _failure(
    item: InspectedModel, step: Literal["metrics", "latency"], error: QGraphError
) -> Unmeasured:
    reason = " ".join(str(error).split())
    return Unmeasured(
        variant=item.name,
        path=item.path.name,
        step=step,
        reason=reason.removeprefix(f"{item.path}: "),
        exit_code=error.exit_code,
    )


def _measure(
    models: Sequence[InspectedModel],
    quality: Mapping[str, Quality],
    settings: EvaluationSettings,
    progress: Progress,
    failures: list[Unmeasured],
    *,
    interleaved: bool,
) -> dict[str, Measured]:
    """Return variant → everything found out about it: after quality, times, then memory."""
    intervals = _intervals(quality)
    if not settings.measures_sessions:
        return {name: Measured(it, intervals[name], {}, None) for name, it in quality.items()}
    feeds = quality[models[0].name].feeds
    timed = time_variants(
        {item.name: partial(open_variant, item, settings, Semantics.FAST) for item in models},
        feeds,
        settings.latency_runs,
        progress,
        interleaved=interleaved,
    )
    latency: dict[str, dict[str, Latency]] = {}
    for item in models:
        times = timed[item.name]
        if isinstance(times, QGraphError):
            failures.append(_failure(item, "latency", times))
        else:
            latency[item.name] = times
    footprints = _footprints(models, settings, next(iter(feeds.values())), progress)
    return {
        name: Measured(found, intervals[name], latency.get(name, {}), footprints[name])
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
    kept: KeptObservations | None,
) -> Quality:
    if kept is not None and model.name in kept.refused:
        raise kept.refused[model.name]
    session, placed = session_of(model, task, task.feeds, settings, progress), None
    if kept is not None and isinstance(task, ObservesSamples):
        found = _observed(model, task, session, settings, progress, kept)
        metrics, placed = task.conclude(model.name, found.seen), (found.placement, found.elsewhere)
    else:
        metrics = task.measure(model.name, session, progress)
    samples: PerSample | None = None
    if isinstance(task, Resampled):
        samples = task.per_sample(model.name)
    if settings.own:
        own = measure_own(settings.own, task, session, model.name, progress)
        metrics = metrics | own.overall()
        if samples is not None and samples.count == own.count:
            samples = Joined(samples, own)
    feeds = {"forward": task.feeds[0]}
    if settings.in_parts is None and isinstance(task, Stepwise):
        feeds = task.steps(session)
    said = [] if suite is None else suite.say(model.name, session, progress)
    placement, elsewhere = placed or (session.placement(), session.elsewhere())
    by_output = task.by_output(model.name) if isinstance(task, ComparesOutputs) else {}
    return Quality(metrics, samples, placement, elsewhere, feeds, said, by_output)


def _observed(
    model: InspectedModel,
    task: ObservesSamples,
    session: Session,
    settings: EvaluationSettings,
    progress: Progress,
    kept: KeptObservations,
) -> VariantObservations:
    """Return what a variant shows on all samples, after looking at those that it lacks."""
    numbers = kept.to_look_at(model)
    if settings.in_parts is not None and 0 < len(numbers) < len(
        task.feeds
    ):  # it answers for samples that were announced
        feeds = [task.feeds[number] for number in numbers]
        session = session_of(model, task, feeds, settings, progress)
    kept.look(
        model,
        lambda number: task.observe(number, session, first=model.is_float),
        lambda: (session.placement(), session.elsewhere()),
        partial(progress, f"evaluating {model.name}"),
    )
    return kept.whole(model)


def _intervals(quality: Mapping[str, Quality]) -> dict[str, Intervals]:
    samples = {name: item.samples for name, item in quality.items() if item.samples is not None}
    found = bootstrap(samples) if len(samples) == len(quality) else {}
    return {name: found.get(name, Intervals()) for name in quality}


def _footprints(
    models: Sequence[InspectedModel], settings: EvaluationSettings, feed: Feed, progress: Progress
) -> dict[str, Footprint | None]:
    progress("memory", 0, 1)
    found = measure_footprints([item.path for item in models], settings.provider, feed)
    progress("memory", 1, 1)
    return {item.name: footprint for item, footprint in zip(models, found, strict=True)}

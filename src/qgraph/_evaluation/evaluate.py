"""Measuring variants side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Literal

from qgraph._evaluation.entry import Measured, Quality, entry
from qgraph._evaluation.footprint import measure_footprints
from qgraph._evaluation.intervals import RESAMPLES, Intervals, bootstrap
from qgraph._evaluation.kept_observations import KeptObservations
from qgraph._evaluation.latency import FAULTS, WARM_UP, fit_together, time_variants
from qgraph._evaluation.observing import VariantObservations, open_variant, session_of
from qgraph._evaluation.own_metrics import Joined, measure_own
from qgraph._evaluation.results import Evaluation, EvaluationRun, Unmeasured
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
    work = _Work(task, suite, settings, progress, kept)
    quality = work.qualities(models)
    models = [item for item in models if item.name in quality]
    measured = work.measured(models, quality, interleaved=interleaved)
    reference = quality[models[0].name].metrics
    timed = settings.measures_sessions
    return Evaluation(
        schema=Evaluation.SCHEMA,
        model=models[0].id,
        task=task.name,
        run=EvaluationRun(
            qgraph=settings.version,
            provider=settings.provider,
            device=describe_device(settings.provider),
            samples=len(task.feeds),
            data=settings.data,
            data_sha256=sha256("".join(map(digest_of_feed, task.feeds)).encode()).hexdigest(),
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
        ),
        variants=tuple(entry(it, measured[it.name], reference, settings) for it in models),
        sanity=()
        if suite is None
        else side_by_side(suite.prompts, {name: it.said for name, it in quality.items()}),
        failures=tuple(work.failures),
    )


def _has_intervals(measured: Mapping[str, Measured]) -> bool:
    found = [item.intervals for item in measured.values()]
    return any(item.alone or item.difference for item in found)


def _intervals(quality: Mapping[str, Quality]) -> dict[str, Intervals]:
    samples = {name: item.samples for name, item in quality.items() if item.samples is not None}
    found = bootstrap(samples) if len(samples) == len(quality) else {}
    return {name: found.get(name, Intervals()) for name in quality}


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Measures variants on a task; what cannot be measured goes to `failures`."""

    task: Task
    suite: Suite | None
    settings: EvaluationSettings
    progress: Progress
    kept: KeptObservations | None
    failures: list[Unmeasured] = field(default_factory=list)

    def qualities(self, models: Sequence[InspectedModel]) -> dict[str, Quality]:
        """Return variant → what the task says of it.

        Raises:
            QGraphError: of the float model, without which there is nothing to compare with.
        """
        found: dict[str, Quality] = {}
        for item in models:
            try:
                found[item.name] = self._quality(item)
            except FAULTS as error:
                if item is models[0]:
                    raise
                self._fail(item, "metrics", error)
        return found

    def _fail(
        self, item: InspectedModel, step: Literal["metrics", "latency"], error: QGraphError
    ) -> None:
        reason = " ".join(str(error).split()).removeprefix(f"{item.path}: ")
        self.failures.append(
            Unmeasured(
                variant=item.name, path=item.path.name, step=step, reason=reason,
                exit_code=error.exit_code,
            )
        )  # fmt: skip

    def measured(
        self, models: Sequence[InspectedModel], quality: Mapping[str, Quality], *, interleaved: bool
    ) -> dict[str, Measured]:
        """Return variant → everything found out about it: after quality, times, then memory."""
        settings, intervals = self.settings, _intervals(quality)
        if not settings.measures_sessions:
            return {name: Measured(it, intervals[name], {}, None) for name, it in quality.items()}
        feeds = quality[models[0].name].feeds
        openers = {it.name: partial(open_variant, it, settings, Semantics.FAST) for it in models}
        timed = time_variants(
            openers, feeds, settings.latency_runs, self.progress, interleaved=interleaved
        )
        for item in models:
            if isinstance(error := timed[item.name], QGraphError):
                self._fail(item, "latency", error)
        self.progress("memory", 0, 1)
        paths, first = [item.path for item in models], next(iter(feeds.values()))
        footprints = measure_footprints(paths, settings.provider, first)
        self.progress("memory", 1, 1)
        latency = {n: {} if isinstance(it, QGraphError) else it for n, it in timed.items()}
        return {
            item.name: Measured(
                quality[item.name], intervals[item.name], latency[item.name], footprint
            )
            for item, footprint in zip(models, footprints, strict=True)
        }

    def _quality(self, model: InspectedModel) -> Quality:
        task, settings, kept, name = self.task, self.settings, self.kept, model.name
        if kept is not None and name in kept.refused:
            raise kept.refused[name]
        session, placed = session_of(model, task, task.feeds, settings, self.progress), None
        if kept is not None and isinstance(task, ObservesSamples):
            found = self._observed(model, task, session, kept)
            metrics, placed = task.conclude(name, found.seen), (found.placement, found.elsewhere)
        else:
            metrics = task.measure(name, session, self.progress)
        samples: PerSample | None = task.per_sample(name) if isinstance(task, Resampled) else None
        if settings.own:
            own = measure_own(settings.own, task, session, name, self.progress)
            metrics = metrics | own.overall()
            if samples is not None and samples.count == own.count:
                samples = Joined(samples, own)
        feeds = {"forward": task.feeds[0]}
        if settings.in_parts is None and isinstance(task, Stepwise):
            feeds = task.steps(session)
        said = [] if self.suite is None else self.suite.say(name, session, self.progress)
        placement, elsewhere = placed or (session.placement(), session.elsewhere())
        by_output = task.by_output(name) if isinstance(task, ComparesOutputs) else {}
        return Quality(metrics, samples, placement, elsewhere, feeds, said, by_output)

    def _observed(
        self, model: InspectedModel, task: ObservesSamples, session: Session, kept: KeptObservations
    ) -> VariantObservations:
        """Return what a variant shows on all samples, after looking at those that it lacks."""
        numbers = kept.to_look_at(model)
        if self.settings.in_parts is not None and 0 < len(numbers) < len(task.feeds):
            # it answers for samples that were announced
            feeds = [task.feeds[number] for number in numbers]
            session = session_of(model, task, feeds, self.settings, self.progress)
        kept.look(
            model,
            lambda number: task.observe(number, session, first=model.is_float),
            lambda: (session.placement(), session.elsewhere()),
            partial(self.progress, f"evaluating {model.name}"),
        )
        return kept.whole(model)

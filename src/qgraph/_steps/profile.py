"""`qgraph.profile`: profiles cut from a report, measured on switches, or searched for a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from qgraph._exporters.tasks import NamesMetrics, Observation, ObservesSamples, Task
from qgraph._graph.errors import UsageError
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import metric
from qgraph._metrics.budget import Budget
from qgraph._metrics.table import find_metric, is_called
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges, require_same_model
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.ranking.mixing import Mixing, mixing_of
from qgraph._sensitivity.ranking.profiles import cut_profiles, pairs_of, profile_of, units_of
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.search.predicted import search_predicted
from qgraph._steps.given import AnyModel, AnyPath
from qgraph._steps.inputs import document, required
from qgraph._steps.model import Model, opened
from qgraph._steps.options import ProfileOptions, chosen
from qgraph._steps.ray_cluster import require_ray
from qgraph._steps.ray_profile import part_of, sets_on_cluster
from qgraph._steps.switches import Switches
from qgraph._steps.tasks import require_metrics, task_of

_QUESTIONS = "vqa_accuracy"


def profile(
    report: Sensitivity | AnyPath,
    *,
    model: Model | AnyModel | None = None,
    ranges: Ranges | AnyPath | None = None,
    options: ProfileOptions | None = None,
    runtime: Runtime | None = None,
    **given: Any,
) -> Profiles:
    """Return the profiles cut from a sensitivity report, by the metric that it ranks by.

    With `model`, `data` and `ranges`, each profile is also measured on the task, without writing a
    model. `budget` adds the largest profile within a limit. Options are those of `ProfileOptions`,
    as an object or by name.

    Raises:
        InputError: not even the float model meets the budget.
        UsageError: a budget without a model and data, or of a metric that the task does not have.
    """
    asked = chosen(ProfileOptions, options, given)
    source = Path(report).name if isinstance(report, str | Path) else "sensitivity.json"
    seen, mixing = document(report, Sensitivity), None
    if asked.mix:
        seen, mixing = mixing_of(seen, asked.mix)
    budget = Budget.parse(asked.budget) if asked.budget is not None else None
    cut = cut_profiles(seen, source, asked.cuts, asked.by, asked.top_k)
    cut = cut if mixing is None else mixing.applied(cut)
    if model is None:
        if budget is not None:
            raise UsageError("--budget needs --model and --data to measure on")
        if useless := asked.of_measuring():
            raise UsageError(
                f"--{useless[0].replace('_', '-')} needs --model, the model to measure profiles on"
            )
        return cut
    if ranges is None or not asked.data:
        raise UsageError("measuring profiles needs the ranges they are quantized with, and --data")
    found, runtime = (
        opened(model).along(asked.batch_axis, asked.preprocess, asked.data),
        required(runtime),
    )
    if runtime.ray is not None:
        require_ray()
    answers = budget is not None and is_called(budget.metric, _QUESTIONS)
    task, known = task_of(found, asked, answers=answers), document(ranges, Ranges)
    require_metrics(task, {"--budget": _limits_of(asked)})
    with ExitStack() as joined:
        bench, elsewhere = Bench(found, seen, known, runtime, mixing), None
        if runtime.ray is not None and isinstance(task, ObservesSamples) and task.divisible:
            part = part_of(
                found, seen, known, task, asked, runtime.provider, mixing, answers=answers
            )
            elsewhere = joined.enter_context(sets_on_cluster(part, found, runtime))
        bench.use(task, elsewhere)
        measured = _measured(cut, seen, asked, budget, bench, runtime)
        made = cut.model_copy(update={"profiles": measured})
        return made if mixing is None else mixing.applied(made)


def _measured(
    cut: Profiles,
    seen: Sensitivity,
    asked: ProfileOptions,
    budget: Budget | None,
    bench: Bench,
    runtime: Runtime,
) -> tuple[Profile, ...]:
    """Return the profiles with their metrics, and the one searched for a budget."""
    if budget is not None:  # before hours of measuring
        key = find_metric(budget.metric, bench.float_values(), "--budget")
        budget = replace(budget, metric=key)
    measured = [bench.measured(item) for item in cut.profiles]
    if budget is not None:
        measured.append(_searched(seen, asked, budget, bench, runtime, measured))
    return tuple(measured)


Elsewhere = Callable[[frozenset[str]], Sequence[Observation]]
"""Returns what samples show, in their order, with exactly these nodes quantized."""


class Bench:
    """Measures sets of nodes on a task."""

    def __init__(
        self,
        model: Model,
        report: Sensitivity,
        ranges: Ranges,
        runtime: Runtime,
        mixing: Mixing | None = None,
    ) -> None:
        require_same_model(report.model, model.id, "sensitivity report")
        if report.scheme.name is SchemeName.INC_CPU:
            raise UsageError(f"profiles of the scheme {report.scheme.name} cannot be measured here")
        names = [node.name for node in report.nodes]
        apart = {} if mixing is None else mixing.apart()
        self._open = partial(Switches, model, names, ranges, report.scheme, runtime.provider, apart)
        self._progress = runtime.progress
        self._task: Task | None = None
        self._elsewhere: Elsewhere | None = None
        self.float_metrics: dict[str, float] = {}

    def use(self, task: Task, elsewhere: Elsewhere | None = None) -> None:
        """Measure on `task` from here on; `elsewhere`: by other processes, which see the same."""
        self._task, self._elsewhere = task, elsewhere
        self.float_metrics = self.metrics(frozenset(), "float")

    def metrics(self, nodes: frozenset[str], name: str) -> dict[str, float]:
        """Return what the task measures with `nodes` and their companions quantized."""
        assert self._task is not None  # noqa: S101 - `use` comes first
        if self._elsewhere is not None and isinstance(self._task, ObservesSamples):
            return self._task.conclude(name, self._elsewhere(nodes))
        return self._task.measure(name, self._switches.quantizing(nodes), self._progress)

    @cached_property
    def _switches(self) -> Switches:
        return self._open()

    def float_values(self) -> dict[str, float]:
        """Return the float model's metrics, also what a task leaves out where outputs are equal."""
        possible = self._task.metrics if isinstance(self._task, NamesMetrics) else {"sqnr_db"}
        return dict.fromkeys(filter(_unbounded, possible), math.inf) | self.float_metrics

    def measured(self, item: Profile) -> Profile:
        """Return a profile with its metrics."""
        found = self.metrics(frozenset(item.quantize), item.name)
        return item.model_copy(update={"measured": found})


def _unbounded(key: str) -> bool:
    return metric(key).unbounded


def require_profilable(model: Model, asked: ProfileOptions) -> None:
    """Check, before hours of other work, what measuring profiles of `model` would refuse.

    Raises:
        QGraphError: as `profile` does, from what a single sample of the data tells.
    """
    along = model.along(asked.batch_axis, asked.preprocess, asked.data)
    task = along.family.task(along.view, asked.task, asked.data, 1)
    require_metrics(task, {"--budget": _limits_of(asked)})


def _limits_of(asked: ProfileOptions) -> list[Budget]:
    """Return the budget, if there is one."""
    return [] if asked.budget is None else [Budget.parse(asked.budget)]


def _searched(
    report: Sensitivity,
    asked: ProfileOptions,
    budget: Budget,
    bench: Bench,
    runtime: Runtime,
    profiles: Sequence[Profile],
) -> Profile:
    """Return the profile searched for a budget; `profiles` were measured before."""
    units = units_of(report, asked.by)
    pairs = pairs_of(report, units, budget.metric)

    def measure(nodes: frozenset[str]) -> float:
        return bench.metrics(nodes, "a set").get(budget.metric, math.inf)

    value = bench.float_values()[budget.metric]
    known = {
        frozenset(item.quantize): (item.measured or {}).get(budget.metric, math.inf)
        for item in profiles
    } | {frozenset[str](): value}
    found = search_predicted(units, pairs, budget, measure, known, runtime.progress)
    bound = f", the limit is {budget.bound(value):.6g}" if budget.relative else ""
    title = f"the largest found with {budget}: it has {found.value:.6g}{bound}"
    made = profile_of(report, "budget", title, found.units)
    return bench.measured(made.model_copy(update={"budget": str(budget)}))

"""`qgraph.profile`: profiles cut from a report, measured on switches, or searched for a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from qgraph._exporters.family import Task
from qgraph._exporters.qwen.task import LmTask
from qgraph._graph.errors import UsageError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._quantize.companions import find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.profiles import Profile, Profiles
from qgraph._quantize.ranges import Ranges, ranges_for, require_same_model
from qgraph._quantize.scheme import SchemeName
from qgraph._quantize.selection import select
from qgraph._sensitivity.ranking.profiles import (
    DEFAULT_CUTS,
    By,
    cut_profiles,
    profile_of,
    units_of,
)
from qgraph._sensitivity.report import Sensitivity
from qgraph._sensitivity.search.budget import Budget, search_budget
from qgraph._sensitivity.search.switched import SwitchedSession
from qgraph._steps.calibrate import in_form_of
from qgraph._steps.inputs import AnyPath, document, paths
from qgraph._steps.model import OpenModel, open_model

_QUESTIONS = "vqa_accuracy"
_ALL = 1 << 30
_NONE_IF_EQUAL = ("sqnr_db",)
"""Metrics that a task leaves out where outputs are equal, as they are infinite there."""


def profile(
    report: Sensitivity | AnyPath,
    *,
    cuts: Mapping[str, float] = DEFAULT_CUTS,
    by: By = By.NODES,
    top_k: int | None = None,
    budget: str | None = None,
    model: AnyPath | None = None,
    data: Sequence[AnyPath] = (),
    ranges: Ranges | AnyPath | None = None,
    task: str | None = None,
    samples: int | None = None,
    provider: Provider = Provider.CPU,
    progress: Progress = silent,
) -> Profiles:
    """Return the profiles cut from a sensitivity report.

    With `model`, `data` and `ranges` each is measured on the task, by switches and without emitting
    a model; `budget` (as in `loss<=1.02x`) adds the largest profile found that meets it.

    Raises:
        InputError: not even the float model meets the budget.
        UsageError: a budget without a model and data, or of a metric that the task does not have.
    """
    source = Path(report).name if isinstance(report, str | Path) else "sensitivity.json"
    seen = document(report, Sensitivity)
    asked = Budget.parse(budget) if budget is not None else None
    cut = cut_profiles(seen, source, cuts, by, top_k)
    if model is None:
        if asked is not None:
            raise UsageError("--budget needs --model and --data to measure on")
        return cut
    if ranges is None or not data:
        raise UsageError("measuring profiles needs the ranges they are quantized with, and --data")
    require_provider(Provider(provider))
    opened = open_model(Path(model))
    bench = _Bench(opened, seen, document(ranges, Ranges), Provider(provider), progress)
    questions = asked is not None and asked.metric == _QUESTIONS
    bench.use(_task(opened, task, paths(data), samples, questions=questions))
    if asked is not None:
        _require_metric(asked, bench)  # before hours of measuring
    measured = [bench.measured(item) for item in cut.profiles]
    if asked is not None:
        measured.append(_searched(seen, by, asked, bench, progress))
    return cut.model_copy(update={"profiles": tuple(measured)})


class _Bench:
    """Measures sets of nodes on a task."""

    def __init__(
        self,
        opened: OpenModel,
        report: Sensitivity,
        ranges: Ranges,
        provider: Provider,
        progress: Progress,
    ) -> None:
        require_same_model(report.model, opened.prepared.id, "sensitivity report")
        if report.scheme.name is SchemeName.INC_CPU:
            raise UsageError(f"profiles of the scheme {report.scheme.name} cannot be measured here")
        prepared = in_form_of(opened, ranges).prepared
        known = {node.name: node for node in select(prepared.model, include=[".*"]).candidates}
        nodes = [known[node.name] for node in report.nodes]
        self._companions = find_companions(prepared.model, nodes)
        nodes += [companion.node for companion in self._companions]
        covered = ranges_for(ranges, prepared.id, report.scheme, nodes, "ranges")
        parameters = quantization_parameters(prepared.model, nodes, covered, report.scheme)
        self._sessions = SwitchedSession(prepared, nodes, fake_quantization(parameters), provider)
        self._progress = progress
        self._task: Task | None = None
        self.float_metrics: dict[str, float] = {}

    def use(self, task: Task) -> None:
        """Measure on `task` from here on."""
        self._task = task
        self.float_metrics = self.metrics(frozenset(), "float")

    def metrics(self, nodes: frozenset[str], name: str) -> dict[str, float]:
        """Return what the task measures with `nodes` and their companions quantized."""
        assert self._task is not None  # noqa: S101 - `use` comes first
        beside = {item.node.name for item in self._companions if item.beside in nodes}
        return self._task.measure(name, self._sessions.quantizing(nodes | beside), self._progress)

    def measured(self, item: Profile) -> Profile:
        """Return a profile with its metrics."""
        found = self.metrics(frozenset(item.quantize), item.name)
        return item.model_copy(update={"measured": found})


def _float_values(bench: _Bench) -> dict[str, float]:
    """Return the float model's metrics, also what a task leaves out where outputs are equal."""
    return dict.fromkeys(_NONE_IF_EQUAL, math.inf) | bench.float_metrics


def _require_metric(budget: Budget, bench: _Bench) -> None:
    values = _float_values(bench)
    if budget.metric not in values:
        known = ", ".join(sorted(values))
        raise UsageError(f"--budget: no metric {budget.metric!r}; the task has {known}")


def _searched(
    report: Sensitivity, by: By, budget: Budget, bench: _Bench, progress: Progress
) -> Profile:
    found = search_budget(
        units_of(report, by),
        budget,
        lambda nodes: bench.metrics(nodes, "a set").get(budget.metric, math.inf),
        progress,
    )
    bound = budget.bound(_float_values(bench)[budget.metric])
    title = f"the largest found with {budget}: {found.value:.6g} of {bound:.6g}"
    made = profile_of(report, "budget", title, found.units)
    return bench.measured(made.model_copy(update={"budget": str(budget)}))


def _task(
    opened: OpenModel,
    name: str | None,
    data: Sequence[Path],
    samples: int | None,
    *,
    questions: bool,
) -> Task:
    limit = _ALL if samples is None else samples
    task = opened.family.task(opened.view, name, data, limit)
    # answering by generation takes most of the time and is no budget's business but its own
    if isinstance(task, LmTask) and not questions:
        return task.without_questions()
    return task

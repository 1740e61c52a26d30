"""The task of a model that is evaluated, or that profiles are measured on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from qgraph._exporters.tasks import Answers, NamesMetrics, Task
from qgraph._metrics.budget import Budget
from qgraph._metrics.table import find_metric
from qgraph._steps.model import Model
from qgraph._steps.options import EvaluateOptions, ProfileOptions

_ALL = 1 << 30
"""Samples of a task, where no number is named."""


def task_of(model: Model, asked: EvaluateOptions | ProfileOptions, *, answers: bool) -> Task:
    """Return the task over the data of `asked`, with generated answers or without: these take most
    of the time.
    """
    task = model.family.task(model.view, asked.task, asked.data, asked.samples or _ALL)
    if isinstance(task, Answers) and not answers:
        return task.without_answers()
    return task


def require_metrics(
    task: Task, asked: Mapping[str, Iterable[str | Budget]], own: Collection[str] = ()
) -> None:
    """Check, before anything is measured, that a task can have the metrics that each option of
    `asked` names or limits; `own`: what a caller measures beside them.

    Raises:
        UsageError: it cannot have one, several are called so, or a limit limits nothing.
    """
    if not isinstance(task, NamesMetrics):
        return
    for option, items in asked.items():
        for item in items:
            name = item.metric if isinstance(item, Budget) else item
            key = find_metric(name, {*task.metrics, *own}, option)
            if isinstance(item, Budget):
                item.require_useful(key, option)

"""The task of a model that is evaluated, or that profiles are measured on."""

from __future__ import annotations

from qgraph._exporters.family import Answers, Task
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

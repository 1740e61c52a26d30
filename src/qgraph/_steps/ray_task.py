"""What runs on a node: some samples of a job, in a process that Ray keeps for more of them."""

from __future__ import annotations

import os
import socket
from dataclasses import astuple
from typing import Any

from qgraph._graph.errors import QGraphError
from qgraph._graph.progress import silent
from qgraph._graph.run.cores import VARIABLE
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._steps.job import Job, OpenedJob


def do(fields: tuple[Any, ...], cpus: int, budget: int) -> dict[str, Any]:
    """Return the sums of a job's samples, or what is wrong with it here, as plain values.

    `fields`: those of `Job`. `cpus`: the threads that may be used; `budget`: bytes to hold.
    """
    os.environ[VARIABLE] = str(cpus)
    job = Job(*fields)
    found: dict[str, Any] = {"node": socket.gethostname()}
    try:
        finished = _opened(job.take(()), budget).run(job.numbers)
    except QGraphError as error:
        return found | {"error": (type(error).__name__, error.message, error.where, error.hint)}
    return found | {"sums": dict(finished.sums), "files": dict(finished.files)}


_kept: dict[tuple[Job, int], OpenedJob] = {}
"""The last job that this process did a part of. A process that is new opens it again."""


def _opened(job: Job, budget: int) -> OpenedJob:
    """Return a job without samples, opened once for all its parts."""
    key = (job, budget)
    if key not in _kept:
        _kept.clear()  # the memory of two would not be there
        _kept[key] = OpenedJob(job, Runtime(Provider(job.provider), budget, silent))
    return _kept[key]


def values(job: Job) -> tuple[Any, ...]:
    """Return a job as `do` takes it."""
    return astuple(job)

"""What runs on a node: some samples of a job, in a process that Ray keeps for more of them."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import astuple, replace
from typing import Any

from qgraph._graph.errors import QGraphError
from qgraph._graph.progress import silent
from qgraph._graph.run.cores import VARIABLE
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._steps.job import Job, OpenedJob
from qgraph._steps.ray_cache import received
from qgraph._steps.ray_sending import Sent, received_data


def do(fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None) -> dict[str, Any]:
    """Return the sums of a job's samples, or what is wrong with it here, as plain values.

    `fields`: those of `Job`. `cpus`: the threads that may be used; `budget`: bytes to hold;
    `along`: model and samples, where they were sent.
    """
    os.environ[VARIABLE] = str(cpus)
    job, begun = Job(*fields), time.process_time()
    found: dict[str, Any] = {"node": socket.gethostname()}
    try:
        finished = _opened(job.take(()), budget, along).run(job.numbers)
    except QGraphError as error:
        return found | {"error": (type(error).__name__, error.message, error.where, error.hint)}
    seconds = time.process_time() - begun
    return found | {"sums": dict(finished.sums), "files": dict(finished.files), "seconds": seconds}


_kept: dict[tuple[Job, int], tuple[OpenedJob, int | None]] = {}
"""The last job that this process did a part of, and what holds its model's folder. A process that
is new opens it again."""


def _opened(job: Job, budget: int, along: Sent | None) -> OpenedJob:
    """Return a job without samples, opened once for all its parts."""
    key = (job, budget)
    if key not in _kept:
        _close()  # the memory of two would not be there
        runtime = Runtime(Provider(job.provider), budget, silent)
        if along is None:
            _kept[key] = OpenedJob(job, runtime), None
        else:
            import ray  # of which this is a process

            folder, held = received(ray, *along[1:3])
            here = replace(job, model=str(folder / along[0]), sizes="[]")
            _kept[key] = OpenedJob(here, runtime, received_data(ray, along)), held
    return _kept[key][0]


def _close() -> None:
    while _kept:
        _, (_, held) = _kept.popitem()
        if held is not None:
            os.close(held)


def values(job: Job) -> tuple[Any, ...]:
    """Return a job as `do` takes it."""
    return astuple(job)

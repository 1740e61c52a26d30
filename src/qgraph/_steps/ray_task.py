"""What runs on a node: some samples of a job, in a process that Ray keeps for more of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

from qgraph._graph.errors import QGraphError
from qgraph._graph.progress import silent
from qgraph._graph.run.cores import VARIABLE
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._steps.data import Data
from qgraph._steps.job import Job, OpenedJob
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import Sent, received_data, received_model

Fault = tuple[str, str, str | None, str | None]
"""An error as values: the name of its class, message, place and hint."""


def do(fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None) -> dict[str, Any]:
    """Return the sums of a job's samples, or what is wrong with it here, as plain values.

    `fields`: those of `Job`. `cpus`: the threads that may be used; `budget`: bytes to hold;
    `along`: model and samples, where they were sent.
    """

    def work() -> dict[str, Any]:
        job = Job(*fields)
        whole = job.take(())
        begun = time.process_time()
        opened = kept((whole, budget), lambda: _opened(whole, budget, along))
        opening = time.process_time() - begun
        finished = opened.run(job.numbers)
        sums, files = dict(finished.sums), dict(finished.files)
        return {"sums": sums, "files": files, "opening": opening}

    return done_here(cpus, work)


def done_here(cpus: int, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` gives or is refused with; by whom, and in how much processor time."""
    os.environ[VARIABLE] = str(cpus)
    begun = time.process_time()
    try:
        found = work()
    except QGraphError as error:
        found = {"error": fault_of(error)}
    return found | {"node": socket.gethostname(), "seconds": time.process_time() - begun}


def fault_of(error: QGraphError) -> Fault:
    """Return an error as values."""
    return type(error).__name__, error.message, error.where, error.hint


def _opened(job: Job, budget: int, along: Sent | None) -> OpenedJob:
    """Return a job without samples, opened for all its parts."""
    here, data = there(job, along)
    return OpenedJob(here, runtime_on(job, budget), data)


def runtime_on(job: Job, budget: int) -> Runtime:
    """Return the runtime of a job on a node that gives it so many bytes."""
    return Runtime(Provider(job.provider), budget, silent)


def there(job: Job, along: Sent | None) -> tuple[Job, Data | None]:
    """Return a job as a node finds it, and its samples where they were sent."""
    if along is None:
        return job, None
    import ray  # of which this is a process

    return replace(job, model=str(received_model(along)), sizes="[]"), received_data(ray, along)


def values(job: Job) -> tuple[Any, ...]:
    """Return a job as `do` takes it."""
    return astuple(job)

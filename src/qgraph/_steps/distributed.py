"""Samples of a measurement on the nodes of a Ray cluster, their sums in the journal of this run.

A task is a range of samples and gives their sums: it has no state and may be done again. A worker
or a node that dies costs its unit; when this process dies, the journal has what was finished, for
a run with or without Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from qgraph._graph import errors
from qgraph._graph.errors import EnvironmentFault, LimitError, QGraphError, UsageError
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.loop import is_recorded
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.job import Finished, Job, record_into
from qgraph._steps.ray_cluster import Node, cluster, nodes
from qgraph._steps.ray_task import do, values

_LOG = logging.getLogger("qgraph")
_RETRIES = 3
"""How often a unit is done again whose worker or node died."""
_UNITS = 4
"""Units for each slot: the last to end keeps the others waiting."""
_LONGEST = 16
"""Samples of a unit at most: what a death costs."""
_BEAT = 0.2
"""Seconds between looks at whether to stop."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a task gets: cores and bytes, and a GPU on CUDA; `slots`: tasks at once in all."""

    cpus: int
    gpus: int
    budget: int
    slots: int


def distribute(job: Job, work: Work, engine: Engine, runtime: Runtime, journal: Journal) -> None:
    """Have the samples done that the journal lacks, until the deadline of `work`.

    Raises:
        EnvironmentFault: Ray is missing, or a unit's worker died again and again.
        KeyboardInterrupt: someone asked to stop.
        LimitError: the budget of a node is too small for the work.
        QGraphError: a node has another model, data or version: the message names it.
    """
    waiting = [number for number in job.numbers if not is_recorded(journal, number)]
    if runtime.ray is None or not waiting:
        return
    with runtime.stop.held(), cluster(runtime.ray) as ray:
        there = [node for node in nodes(ray) if node.cpus]
        share = share_of(there, work, engine, runtime)
        task = ray.remote(do).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_retries=_RETRIES,
            scheduling_strategy="SPREAD",
        )
        units = [job.take(part) for part in parts_of(waiting, share.slots)]
        left = {task.remote(values(unit), share.cpus, share.budget): unit for unit in units}
        begun, done, by = time.monotonic(), len(job.numbers) - len(waiting), set[str]()
        what = f"scoring, {share.slots} at once on {_count(len(there), 'node')}"
        for unit, found in _finished(ray, left, work.deadline, runtime):
            record_into(journal, _checked(found))
            by.add(found["node"])
            done += len(unit.numbers)
            runtime.progress(what, done, len(job.numbers))
        seconds, new = time.monotonic() - begun, done - len(job.numbers) + len(waiting)
    _LOG.info("%d samples in %.1f s, %.2f a second, by %s",
              new, seconds, new / seconds, ", ".join(sorted(by)))  # fmt: skip


def parts_of(numbers: Sequence[int], slots: int) -> Iterator[Sequence[int]]:
    """Yield the units: samples that follow each other."""
    size = min(_LONGEST, ceil(len(numbers) / (_UNITS * slots)))
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def share_of(there: Sequence[Node], work: Work, engine: Engine, runtime: Runtime) -> Share:
    """Return what a task gets: one core and its part of a node's memory, or twice as many and so
    on until the engine can work in that. A budget that was named is each node's.

    Raises:
        EnvironmentFault: no node has a core, or with CUDA a GPU.
        LimitError: a whole node is too small.
    """
    gpus = int(runtime.provider is Provider.CUDA)
    able = [node for node in there if node.gpus >= gpus]
    if not able:
        raise EnvironmentFault(f"no node of the Ray cluster has a {'GPU' if gpus else 'CPU'}")
    cpus, most = 1, min(node.cpus for node in able)
    while True:
        at_once = [min(node.cpus // cpus, node.gpus if gpus else node.cpus) for node in able]
        budgets = [
            (runtime.memory_budget or node.memory) // count
            for node, count in zip(able, at_once, strict=True)
        ]
        try:
            engine.check(work, Runtime(runtime.provider, min(budgets), runtime.progress))
        except LimitError:
            if 2 * cpus > most:
                raise
            cpus *= 2
        else:
            return Share(cpus, gpus, min(budgets), sum(at_once))


def _finished(
    ray: Any, left: dict[Any, Job], deadline: float | None, runtime: Runtime
) -> Iterator[tuple[Job, Mapping[str, Any]]]:
    """Yield units as they end; what is left when this ends is given up."""
    try:
        while left and (deadline is None or time.monotonic() < deadline):
            runtime.stop.heed()
            ended, _ = ray.wait(list(left), num_returns=1, timeout=_BEAT)
            for item in ended:
                yield left.pop(item), _result(ray, item)
    finally:
        for item in left:
            ray.cancel(item, force=True)


def _result(ray: Any, item: Any) -> Mapping[str, Any]:
    """Return what a task gave; anything else it raised is a defect, shown as it is."""
    try:
        found: Mapping[str, Any] = ray.get(item)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise EnvironmentFault(
            f"a task was lost {_RETRIES + 1} times: {str(error).splitlines()[0]}",
            hint="What is finished is kept: the same command goes on, with or without --ray. Where"
            " memory ran out, name a smaller --memory-budget.",
        ) from error
    return found


def _checked(found: Mapping[str, Any]) -> Finished:
    """Return what a task found.

    Raises:
        QGraphError: what the task raised, with the node's name.
    """
    if "error" not in found:
        return Finished(found["sums"], found["files"])
    kind, message, where, hint = found["error"]
    known = getattr(errors, kind, UsageError)
    raised = known if issubclass(known, QGraphError) else UsageError
    raise raised(f"on node {found['node']}: {message}", where=where, hint=hint)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

"""Samples of a measurement on the nodes of a Ray cluster, their sums in the journal of this run.

A task is a range of samples and gives their sums: it has no state and may be done again. A worker
or a node that dies costs its unit; when this process dies, the journal has what was finished, for
a run with or without Ray.
"""

from __future__ import annotations

import logging
import time

from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.loop import is_recorded
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.job import Finished, Job, record_into
from qgraph._steps.ray_cluster import cluster, nodes
from qgraph._steps.ray_sending import sent
from qgraph._steps.ray_task import do, values
from qgraph._steps.ray_units import carried, parts_of, share_of

_LOG = logging.getLogger("qgraph")
_UNITS = 4
"""Units for each slot: the last to end keeps the others waiting."""
_LONGEST = 16
"""Samples of a unit at most: what a death costs."""


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
        share = share_of(there, runtime, lambda given: engine.check(work, given))
        along = ray.put(sent(ray, job, work)) if runtime.ray_ship else None
        parts = [job.take(part) for part in parts_of(waiting, _UNITS * share.slots, _LONGEST)]
        units = {unit: (values(unit), share.cpus, share.budget, along) for unit in parts}
        begun, done, by, used = time.monotonic(), len(job.numbers) - len(waiting), set[str](), 0.0
        what = f"scoring, {share.slots} at once on {_count(len(there), 'node')}"
        for unit, found in carried(ray, do, units, share, runtime, work.deadline):
            record_into(journal, Finished(found["sums"], found["files"]))
            by.add(found["node"])
            used += found["seconds"]
            done += len(unit.numbers)
            runtime.progress(what, done, len(job.numbers))
        seconds, new = time.monotonic() - begun, done - len(job.numbers) + len(waiting)
    _LOG.info(
        "%d samples in %.1f s, %.2f a second, %.1f s of processor time in tasks, by %s",
        new, seconds, new / seconds, used, ", ".join(sorted(by)),
    )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

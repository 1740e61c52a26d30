"""Samples of a measurement on the nodes of a Ray cluster, their sums in the journal of this run.

A task is a range of samples and gives their sums: it has no state and may be done again. A worker
or a node that dies costs its unit; when this process dies, the journal has what was finished, for
a run with or without Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.engines.protocol import Engine
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.loop import is_recorded
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.data import Data
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
_NUMBER = 8
"""Bytes of a number that travels."""


@dataclass(slots=True)
class Distributed:
    """What a cluster did. `seconds`: by the clock; `processor`: of all tasks, `opening` models and
    sessions among it; `bytes`: of sums and files that came; `by`: the nodes' names.
    """

    samples: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    opening: float = 0.0
    bytes: int = 0
    by: set[str] = field(default_factory=set)

    def take(self, unit: Job, found: Mapping[str, Any]) -> Finished:
        """Count a unit in; return what it came to."""
        sums, files = found["sums"], found["files"]
        self.samples += len(unit.numbers)
        self.processor += found["seconds"]
        self.opening += found["opening"]
        self.bytes += _NUMBER * sum(len(item) for row in sums.values() for item in row)
        self.bytes += sum(map(len, files.values()))
        self.by.add(found["node"])
        return Finished(sums, files)

    def __str__(self) -> str:
        """Return what is told at the end."""
        return (
            f"{self.samples} samples in {self.seconds:.1f} s, {self.samples / self.seconds:.2f} a"
            f" second, {self.processor:.1f} s of processor time in tasks, by"
            f" {', '.join(sorted(self.by))}"
        )


def distribute(
    job: Job, work: Work, data: Data, engine: Engine, runtime: Runtime, journal: Journal
) -> Distributed | None:
    """Have the samples done that the journal lacks, until the deadline of `work`; return what that
    took, None where there was nothing to do.

    Raises:
        EnvironmentFault: Ray is missing, or a unit's worker died again and again.
        KeyboardInterrupt: someone asked to stop.
        LimitError: the budget of a node is too small for the work.
        QGraphError: a node has another model, data or version: the message names it.
    """
    waiting = [number for number in job.numbers if not is_recorded(journal, number)]
    if runtime.ray is None or not waiting:
        return None
    with runtime.stop.held(), cluster(runtime.ray) as ray:
        there = [node for node in nodes(ray) if node.cpus]
        share = share_of(there, runtime, lambda given: engine.check(work, given))
        along = sent(ray, Path(job.model), data, runtime)
        parts = parts_of(waiting, _UNITS * share.slots, _LONGEST)
        jobs = map(job.take, parts)
        units = {unit: (values(unit), share.cpus, share.budget, along) for unit in jobs}
        begun, before, done = time.monotonic(), len(job.numbers) - len(waiting), Distributed()
        what = f"scoring, {share.slots} at once on {_count(len(there), 'node')}"
        runtime.progress(what, before, len(job.numbers))
        for unit, found in carried(ray, do, units, share, runtime, work.deadline):
            record_into(journal, done.take(unit, found))
            runtime.progress(what, before + done.samples, len(job.numbers))
        done.seconds = time.monotonic() - begun
    _LOG.info("%s", done)
    return done


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

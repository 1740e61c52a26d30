"""What an engine asks exactly beside its scores, on the nodes of a Ray cluster, by samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgraph._graph.errors import LimitError
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.streamed import session_bytes
from qgraph._metrics import Sums
from qgraph._sensitivity.engines.exact import Exactly, by_switches
from qgraph._sensitivity.engines.gradient.verifying import by_walks
from qgraph._sensitivity.scoring.computed_model import computed, narrowed
from qgraph._sensitivity.scoring.loop import Limits, Scores
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.scoring.sums_table import SumsTable
from qgraph._sensitivity.scoring.work import Work
from qgraph._steps.data import Data
from qgraph._steps.job import Job
from qgraph._steps.ray_cluster import nodes
from qgraph._steps.ray_kept import kept
from qgraph._steps.ray_sending import Sent, sent
from qgraph._steps.ray_task import done_here, runtime_on, there, values
from qgraph._steps.ray_units import carried, parts_of, share_of

_UNITS, _LONGEST = 2, 16
"""Units for each slot, and samples of one at most."""


@dataclass(eq=False)
class ExactOnCluster:
    """Has nodes answer questions about the samples of a job, in the processes that scored them."""

    ray: Any
    job: Job
    work: Work
    data: Data
    runtime: Runtime

    def __call__(
        self, by: str, questions: Sequence[Question], samples: Sequence[int]
    ) -> Scores | None:
        """Return the sums, of as many samples as there is time for; None where nodes have too
        little memory.

        Raises:
            EnvironmentFault, KeyboardInterrupt, QGraphError: as `carried`.
        """
        found, runtime, what = SumsTable(), self.runtime, "measuring on a cluster"
        asked = [sorted(question) for question in questions]
        try:
            share = share_of(nodes(self.ray), runtime, partial(self._check, by))
        except LimitError:
            return None
        along = sent(self.ray, Path(self.job.model), self.data, runtime)
        units = {
            part: ((values(self.job.take(part)), by, asked), share.cpus, share.budget, along)
            for part in map(tuple, parts_of(samples, _UNITS * share.slots, _LONGEST))
        }
        runtime.progress(what, 0, len(samples))
        with runtime.stop.held():
            ended = carried(self.ray, do_exactly, units, share, runtime, self.work.deadline)
            for _, given in ended:
                for number, row in given["sums"].items():
                    found.add(number, [Sums(*figures) for figures in row])
                runtime.progress(what, len(found), len(samples))
        return Scores(found, len(found) == len(samples), 0)

    @property
    def fits(self) -> bool:
        """Return whether this process has room for a session of its own beside those of nodes,
        which may be processes of this machine.
        """
        return 2 * session_bytes(self.work.prepared.model) <= Memory.of(None).left

    def _check(self, by: str, given: Runtime) -> None:
        """Raise LimitError where a session of the whole model, weights quantized, has no room."""
        takes = 2 * session_bytes(self.work.prepared.model)
        if by == Exactly.SWITCHES and takes > given.memory.left:
            raise LimitError(f"a session takes {takes >> 20} MiB")


def do_exactly(
    fields: tuple[Any, ...], cpus: int, budget: int, along: Sent | None
) -> dict[str, Any]:
    """Return the sums of questions about a job's samples; on a node.

    `fields`: those of `Job`, how (`Exactly`), and the nodes of each question; the rest as of
    `ray_task.do`.
    """

    def answered() -> dict[str, Any]:
        job, by, asked = (
            Job(*fields[0]),
            Exactly(fields[1]),
            [frozenset(each) for each in fields[2]],
        )
        names, whole = frozenset[str]().union(*asked), job.take(())
        ask = kept((whole, by, names, budget), lambda: _Opened(whole, budget, along, by, names))
        return {"sums": ask.sums(asked, job.numbers)}

    return done_here(cpus, answered)


class _Opened:
    """What answers, open for all parts of a job that a process does."""

    def __init__(
        self, job: Job, budget: int, along: Sent | None, by: Exactly, names: frozenset[str]
    ) -> None:
        runtime = runtime_on(job, budget)
        found, data = there(job, along)
        engine, work = found.rebuilt(data)
        found.require(engine, work, runtime)
        assert work.ranges is not None  # noqa: S101 - a job has some
        model = computed(work, work.ranges, runtime.provider)
        self._folder = TemporaryDirectory(prefix="qgraph-exact-")
        folder, model = Path(self._folder.name), narrowed(work, model)
        walks = by is Exactly.WALKS
        self._folds = (
            by_walks(model, runtime, folder, names) if walks else by_switches(model, runtime)
        )

    def sums(self, questions: Sequence[Question], numbers: Sequence[int]) -> dict[int, Any]:
        """Return number of a sample → the sums of every question, as plain values."""
        table = self._folds.score(questions, Limits(), samples=numbers).table
        return {number: [sums.figures() for sums in row] for number, row in table.items()}

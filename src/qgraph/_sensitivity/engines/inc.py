"""The `inc` engine: Intel Neural Compressor's ONNXRT adaptor asked for every node.

Candidates, names and file are those of every engine. The distances are taken from INC's own
models at the outputs that matter; INC's own score, which is over all outputs, stands beside them.
Its two orders are no clean exclusions: docs/inc.md says what they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError, InterruptedRun, LimitError, QGraphError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc import (
    Patience,
    Request,
    Unit,
    UnitKind,
    converse,
    eligible,
    private_names,
    renamed,
    require_inc,
)
from qgraph._quantize.inc.protocol import Answer
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import Selection
from qgraph._sensitivity.engines.inc_report import SETTINGS, Asked, Seconds, build_report
from qgraph._sensitivity.engines.questions import Scored
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.ranking.order import require_measurable
from qgraph._sensitivity.report import Direction, Metric, Sensitivity
from qgraph._sensitivity.scoring.job import Context, digest_of_feed
from qgraph._sensitivity.scoring.journal import Journal

Keep = Callable[[Sensitivity], None]
"""Takes what was measured when a run is cut short."""


@dataclass(frozen=True, slots=True, eq=False)
class IncTask:
    """What INC is asked. `batches`: how many feeds are scored, None for all; all calibrate.

    `max_nodes`: only the first so many candidates, in graph order. `deadline`: on
    `time.monotonic`'s clock, the node under way is the last. `as_written`: INC's models run without
    integer kernels, to see how much of a score is theirs.
    """

    prepared: PreparedModel
    selection: Selection
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    direction: Direction = Direction.BOTH
    metric: Metric = Metric.MSE
    batches: int | None = None
    max_nodes: int | None = None
    deadline: float | None = None
    patience: Patience | None = None
    as_written: bool = False


def measure_with_inc(
    task: IncTask,
    context: Context,
    journal: Journal,
    progress: Progress = silent,
    keep: Keep | None = None,
) -> Sensitivity:
    """Return INC's scores of the candidates; each is in `journal` as soon as it is known.

    A run that ends on its time budget returns what it has, `complete: false`. One that ends on an
    interruption or a death of INC's process gives it to `keep` and raises.

    Raises:
        EnvironmentFault: INC is missing, or of a version this was not written for.
        InputError: nothing to quantize, a float16 graph, or INC fails on the model.
        LimitError: 2 GB of weights, no memory, no answer, or no time for a single score.
        RuntimeDiedError: INC's process crashed.
        InterruptedRun: stopped on request; the next run goes on.
    """
    clock, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    require_inc()
    require_measurable(task.metric, logits=task.scored.logits)
    asked = _asked(task)
    work = _Work(task, asked, journal, progress)
    forward = forward_seconds(task.prepared.model, task.feeds[: task.batches], Provider.CPU)
    setup = time.perf_counter() - clock
    error = work.run()
    if SETTINGS not in journal.entries or asked.units[0].key not in journal.entries:
        raise error or LimitError("the time budget ended before the first score", hint=_LONGER)
    seconds = Seconds(started, time.perf_counter() - clock, setup, forward)
    report = build_report(asked, context, journal.entries, seconds)
    if error is not None:
        if keep is not None:
            keep(report)
        raise error
    return report


_LONGER = "Give --time-budget more, or use fewer --samples; what was begun is kept."


def _asked(task: IncTask) -> Asked:
    """Return which candidates INC is asked about, and the units of work that takes."""
    where = str(task.prepared.path)
    nodes, refusals = eligible(task.prepared.model, task.selection.candidates, where)
    if not nodes:
        raise InputError(
            "the model has no node that Intel Neural Compressor can be asked about", where=where
        )
    chosen = nodes[: task.max_nodes]
    macs = measure_macs(task.prepared, task.feeds[0], Provider.CPU)
    reasons = {item.name: item.reason for item in refusals}
    for node in nodes[len(chosen) :]:
        reasons[node.name] = f"beyond --max-nodes {task.max_nodes}"
    ideal = ideal_forwards(task.prepared.model, macs, chosen)
    return Asked(
        task.prepared,
        task.selection,
        task.scored,
        task.scheme,
        task.direction,
        task.metric,
        samples=len(task.feeds),
        batches=len(task.feeds[: task.batches]),
        nodes=tuple(nodes),
        units=_units(chosen, task.direction),
        limited=len(chosen) < len(nodes),
        reasons=reasons,
        macs=macs,
        ideal=ideal * (2 if task.direction is Direction.BOTH else 1),
    )


def _units(nodes: Sequence[QuantizableNode], direction: Direction) -> tuple[Unit, ...]:
    """Return the models INC has to make: all quantized first, then one or two per node."""
    kinds = [UnitKind.SOLO] * direction.has_solo + [UnitKind.WITHOUT] * direction.has_leave_one_out
    singles = (Unit(kind=kind, node=node.name) for kind in kinds for node in nodes)
    return (Unit(kind=UnitKind.ALL), *singles)


class _TimeIsUp(Exception):  # noqa: N818 - no error: what is there is returned
    """The deadline passed."""


class _Work:
    """The units that are not in the journal yet."""

    def __init__(self, task: IncTask, asked: Asked, journal: Journal, progress: Progress) -> None:
        self._task = task
        self._asked = asked
        self._journal = journal
        self._progress = progress
        self._todo = [unit for unit in asked.units if unit.key not in journal.entries]
        self._private = private_names(task.prepared.model)
        self._own = {private: name for name, private in self._private.items()}

    def run(self) -> QGraphError | None:
        """Work until done, or the deadline; return what broke the work off."""
        deadline = self._task.deadline
        self._show()
        if not self._todo:
            return None

        def hear(answer: Answer) -> None:
            self._write_down(answer)
            if deadline is not None and time.monotonic() >= deadline:
                raise _TimeIsUp

        model = renamed(self._task.prepared.model, self._private)
        try:
            converse(model, self._task.feeds, self._request(), hear, self._task.patience)
        except _TimeIsUp:
            return None
        except KeyboardInterrupt:
            return InterruptedRun("interrupted", hint=_AGAIN)
        except QGraphError as error:
            return error
        return None

    def _request(self) -> Request:
        task = self._task
        private = self._private
        return Request(
            inputs=tuple(spec.name for spec in task.prepared.inputs),
            feeds=len(task.feeds),
            candidates=tuple(
                (private.get(node.name, node.name), node.op_type) for node in self._asked.nodes
            ),
            tensorrt=task.scheme.name is not SchemeName.INC_CPU,
            outputs=task.scored.outputs,
            logits=task.scored.logits,
            batches=self._asked.batches,
            units=tuple(
                Unit(kind=unit.kind, node=private.get(unit.node, unit.node)) for unit in self._todo
            ),
            as_written=task.as_written,
        )

    def _write_down(self, answer: Answer) -> None:
        if answer.settings is not None and SETTINGS not in self._journal.entries:
            missing = tuple(self._own.get(name, name) for name in answer.settings.not_offered)
            settings = answer.settings.model_copy(update={"not_offered": missing})
            self._journal.record(SETTINGS, settings.model_dump(mode="json"))
        if answer.score is not None:
            unit = answer.score.unit
            unit = unit.model_copy(update={"node": self._own.get(unit.node, unit.node)})
            left = tuple(sorted(self._own.get(name, name) for name in answer.score.left_float))
            score = answer.score.model_copy(update={"unit": unit, "left_float": left})
            self._journal.record(unit.key, score.model_dump(mode="json"))
            self._show()

    def _show(self) -> None:
        done = sum(unit.key in self._journal.entries for unit in self._asked.units)
        self._progress("INC, one model a node", done, len(self._asked.units))


_AGAIN = "What was scored is kept; run the same command again and it goes on."


def fingerprint(task: IncTask, context: Context) -> dict[str, Any]:
    """Return what two runs must share for one to go on with the other's journal.

    Directions, the metric and `max_nodes` are no part of it: they only choose among units.
    """
    return {
        "engine": "inc",
        "model": task.prepared.id.sha256,
        "data": [digest_of_feed(feed) for feed in task.feeds],
        "candidates": [node.name for node in task.selection.candidates],
        "scheme": task.scheme.model_dump(mode="json"),
        "outputs": list(task.scored.outputs),
        "batches": len(task.feeds[: task.batches]),
        "as_written": task.as_written,
        "qgraph": context.version,
        "neural-compressor": require_inc(),
        "packages": dict(context.packages),
    }

"""The engine `inc`: Intel Neural Compressor's ONNXRT adaptor asked for every node.

Candidates, names and file are those of every engine. The distances are taken from INC's own
models at the outputs that matter; INC's own score, which is over all outputs, stands beside them.
Its two orders are no clean exclusions: docs/inc.md says what they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qgraph._graph.errors import InterruptedRun, LimitError, QGraphError, UsageError
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.run.session import Provider
from qgraph._quantize.inc import (
    IncAnswer,
    IncUnit,
    Patience,
    Request,
    UnitKind,
    converse,
    private_names,
    renamed,
    require_inc,
)
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.engines.inc_journal import SETTINGS, IncScores, read_found, to_scores
from qgraph._sensitivity.engines.inc_plan import IncOptions, IncPlan, options_of, plan_of
from qgraph._sensitivity.engines.protocol import NodeScores, Timing
from qgraph._sensitivity.scoring.journal import Journal, open_journal
from qgraph._sensitivity.scoring.loop import FOR_TIMING, scoring_ends
from qgraph._sensitivity.scoring.work import Work, identity


class Inc:
    """INC runs in a process of its own; each unit of its work is kept as soon as it is known."""

    name = "inc"
    options = IncOptions
    schemes = (SchemeName.INC_CPU, SchemeName.INT8)
    calibrates = True

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse what INC does by itself or not at all."""
        require_inc()
        if work.metric == "noise_to_signal":
            raise UsageError(
                f"--metric {work.metric} is not measured on INC's models",
                hint="Leave it out, or use --engine switch --scheme inc-cpu.",
            )
        unfit = {
            "--group fused": bool(work.groups),
            f"--provider {runtime.provider}": runtime.provider is not Provider.CPU,
            f"the scheme [{work.scheme}]": work.scheme != Scheme(name=work.scheme.name),
            "--memory-budget": runtime.memory_budget is not None,
            "--no-logits": work.narrow,
        }
        for option in (name for name, is_given in unfit.items() if is_given):
            raise UsageError(
                f"{option} does not go with --engine inc",
                hint="INC calibrates by itself, scores single nodes, and is run on the CPU.",
            )

    def identity(self, work: Work, runtime: Runtime) -> dict[str, Any]:
        """Return what two runs must share. Directions and `max_nodes` are no part of it: they only
        choose among units.
        """
        options = options_of(work)
        return identity(work, self.name) | {
            "batches": len(work.feeds[: options.confidence_batches]),
            "as_written": options.as_written,
            "neural-compressor": require_inc(),
        }

    def measure(self, work: Work, runtime: Runtime, journal: Journal | None) -> NodeScores:
        """Return INC's scores of the candidates.

        A run that ends on its time budget is not complete. One that ends on an interruption or a
        death of INC's process is broken off, with what was scored.

        Raises:
            EnvironmentFault: INC is missing, or of a version this was not written for.
            InputError: nothing to quantize, a float16 graph, or INC fails on the model.
            LimitError: 2 GB of weights, no memory, no answer, or no time for a single score.
            RuntimeDiedError, InterruptedRun: before anything was scored.
        """
        clock = time.perf_counter()
        require_inc()
        plan = plan_of(work)
        options = options_of(work)
        forward = forward_seconds(
            work.prepared.model, work.feeds[: options.confidence_batches], Provider.CPU,
            deadline=scoring_ends(work.deadline, FOR_TIMING),
        )  # fmt: skip
        setup = time.perf_counter() - clock
        with _kept(journal) as kept:
            error = _Conversation(work, plan, kept, runtime, self._patience).run()
            if SETTINGS not in kept.entries or plan.units[0].key not in kept.entries:
                raise error or LimitError(
                    "the time budget ended before the first score", hint=_LONGER
                )
            found = read_found(plan.units, kept.entries)
        # units of earlier runs count too: what was resumed cost their time
        timing = Timing(setup, found.seconds, forward, plan.ideal)
        return _scores(work, plan, found, timing, error)


_LONGER = "Give --time-budget more, or use fewer --samples; what was begun is kept."


@contextmanager
def _kept(journal: Journal | None) -> Iterator[Journal]:
    """Yield the journal, or a temporary one where none is named."""
    if journal is not None:
        yield journal
        return
    with (
        tempfile.TemporaryDirectory(prefix="qgraph-journal-") as folder,
        open_journal(Path(folder) / "journal", {}) as temporary,
    ):
        yield temporary


class _TimeIsUp(Exception):  # noqa: N818 - no error: what is there is returned
    """The deadline passed."""


class _Conversation:
    """The units that are not in the journal yet."""

    def __init__(
        self,
        work: Work,
        plan: IncPlan,
        journal: Journal,
        runtime: Runtime,
        patience: Patience | None,
    ) -> None:
        self._work = work
        self._plan = plan
        self._journal = journal
        self._runtime = runtime
        self._patience = patience
        self._todo = [unit for unit in plan.units if unit.key not in journal.entries]
        self._private = private_names(work.prepared.model)
        self._own = {private: name for name, private in self._private.items()}

    def run(self) -> QGraphError | None:
        """Work until done, or the deadline; return what broke the work off."""
        deadline = self._work.deadline
        self._show()
        if not self._todo:
            return None

        def hear(answer: IncAnswer) -> None:
            self._write_down(answer)
            if deadline is not None and time.monotonic() >= deadline:
                raise _TimeIsUp

        model = renamed(self._work.prepared.model, self._private)
        try:
            converse(model, self._work.feeds, self._request(), hear, self._patience)
        except _TimeIsUp:
            return None
        except KeyboardInterrupt:
            return InterruptedRun("interrupted", hint=_AGAIN)
        except QGraphError as error:
            return error
        return None

    def _request(self) -> Request:
        work, private, options = self._work, self._private, options_of(self._work)
        return Request(
            inputs=tuple(spec.name for spec in work.prepared.inputs),
            feeds=len(work.feeds),
            candidates=tuple(
                (private.get(node.name, node.name), node.op_type) for node in self._plan.nodes
            ),
            tensorrt=work.scheme.name is not SchemeName.INC_CPU,
            outputs=work.scored.outputs,
            logits=work.scored.logits,
            batches=len(work.feeds[: options.confidence_batches]),
            units=tuple(
                IncUnit(kind=unit.kind, node=private.get(unit.node, unit.node))
                for unit in self._todo
            ),
            as_written=options.as_written,
        )

    def _write_down(self, answer: IncAnswer) -> None:
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
        done = sum(unit.key in self._journal.entries for unit in self._plan.units)
        self._runtime.progress("INC, one model a node", done, len(self._plan.units))


_AGAIN = "Finished nodes are kept. Run the same command again to continue."


def _scores(
    work: Work, plan: IncPlan, found: IncScores, timing: Timing, error: QGraphError | None
) -> NodeScores:
    unscored = _unscored(plan, found)
    nodes = [node.name for node in plan.nodes if node.name not in unscored]
    samples = len(work.feeds)
    return NodeScores(
        table=to_scores(found, nodes),
        macs=plan.macs,
        timing=timing,
        samples=samples,
        complete=len(found.scores) == len(plan.units) and not plan.limited,
        unscored=unscored,
        inc=found.told(samples, len(work.feeds[: options_of(work).confidence_batches])),
        broken_off=error,
    )


def _unscored(plan: IncPlan, found: IncScores) -> dict[str, str]:
    """Return candidate → why it has no score; what INC left float is no score of 0."""
    reasons = dict(plan.reasons)
    for node in plan.nodes:
        units = [unit for unit in plan.units if unit.node == node.name]
        solo = found.of(UnitKind.SOLO, node.name)
        if node.name in found.settings.not_offered:
            reasons[node.name] = f"INC's adaptor does not quantize a {node.op_type}"
        elif node.name in found.everything.left_float:
            reasons[node.name] = "INC leaves it float although asked"
        elif solo is not None and solo.left_float:
            reasons[node.name] = "INC leaves it float when it is the only one quantized"
        elif any(unit.key not in found.scores for unit in units):
            reasons.setdefault(node.name, "the run was cut short before it")
    return reasons

"""What the engines share that answer questions about samples: the set-up, the loop, the end.

Such an engine says how its answers are come by (`open`); asking about sample after sample, time
budgets and journals are the same for all of them.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.errors import InputError
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures, Sums
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.beside_scores import Cause, MemoryUse
from qgraph._sensitivity.engines.minimal_memory import require_budget
from qgraph._sensitivity.engines.protocol import NodeScores, SumsOf, Timing
from qgraph._sensitivity.engines.screening import screened
from qgraph._sensitivity.explain.causes import causes
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.explain.warnings import warnings_of
from qgraph._sensitivity.report import Direction, Stability
from qgraph._sensitivity.scoring.computed_model import (
    WHOLE_HEAD,
    ComputedModel,
    computed,
    narrowed,
)
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.journal import NOTE, Journal
from qgraph._sensitivity.scoring.loop import FOR_TIMING, Limits, Scores, scoring_ends
from qgraph._sensitivity.scoring.questions import Answerer, Key, Question
from qgraph._sensitivity.scoring.score_table import ScoreTable, ask, read_answers, stability_of
from qgraph._sensitivity.scoring.work import (
    EngineOptions,
    Work,
    identity,
    identity_of_questions,
)

_FAILED = "quantizing it, or its group, makes the outputs NaN, infinite or of another shape"
_FORWARD = f"{NOTE}forward seconds"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What was asked, and what came of it in `seconds`; `folder`: as `open` was given it."""

    questions: Mapping[Key, Question]
    scores: Scores
    table: ScoreTable
    folder: Path
    macs: Mapping[str, int]
    seconds: float


class QuestionEngine(ABC):
    """An engine that answers questions about samples; a subclass says how."""

    name: str
    options: type[EngineOptions] = EngineOptions
    schemes: tuple[SchemeName, ...] = (SchemeName.INT8, SchemeName.FP8)
    calibrates = False
    one_by_one = False
    """Whether segments can be opened one at a time: a budget need hold the largest alone."""
    goes_forward = False
    """Whether a forward may be part of the work, which then need not be timed before it."""
    scoring_share = 1.0
    """Of the time that is given; the rest is kept for what it does after scoring."""
    unknown: frozenset[str] = frozenset()
    """Metrics that its answers say nothing about."""

    @abstractmethod
    def open(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> Answerer:
        """Return what answers. `folder`: for what memory has no room for; `resumable`: whether the
        state of long work is kept there, to go on from.
        """

    def forward_seconds(self, answerer: Answerer, samples: int) -> float | None:
        """Return the seconds that all samples took through the model, where it `goes_forward`."""
        return None

    def memory_use(self, answerer: Answerer, runtime: Runtime) -> MemoryUse | None:
        """Return what the work took, where the engine keeps count."""
        return None

    def further(
        self, work: Work, model: ComputedModel, runtime: Runtime, answerer: Answerer, asked: Asked
    ) -> dict[str, Any]:
        """Return what else the engine found, or found better, by the names of `NodeScores`."""
        return {}

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse a memory budget that is less than opening the model takes at least."""
        if runtime.memory_budget is not None:
            require_budget(
                runtime.memory_budget,
                work.prepared.model,
                work.selection.candidates,
                work.scored.outputs,
                runtime.provider,
                one_by_one=self.one_by_one,
            )

    def identity(self, work: Work, runtime: Runtime) -> dict[str, Any]:
        """Return what two runs must share for one to go on with the other's journal."""
        own = {"provider": runtime.provider, "options": work.options.model_dump(mode="json")}
        return identity(work, self.name) | identity_of_questions(work) | own

    def measure(self, work: Work, runtime: Runtime, journal: Journal | None) -> NodeScores:
        """Return the scores of every candidate and group, over the samples the deadline allows.

        Where it allows none, nodes are ranked by what quantizing them does to their own output.

        Raises:
            InputError: NaN or infinity at the float model's outputs, or with any node quantized.
            LimitError: no sample was scored in time, under INC's scheme.
            UsageError: ranges of another model or scheme.
        """
        clock = time.perf_counter()
        model = computed(work, ranges_of(work), runtime.provider)
        prepared, first = model.prepared, model.feeds[0]
        macs = measure_macs(prepared, first, runtime.provider, runtime.memory)
        forward = None if self.goes_forward else _forward(work, model, runtime, journal)
        questions = _questions(work, model)
        with _folder(journal) as folder:
            walked = narrowed(work, model)
            folds = self._folds(work, walked, runtime, folder, resumable=journal is not None)
            folds.open()  # and no name for it here, which would keep it open beside the next
            limits = Limits(scoring_ends(work.deadline, self.scoring_share), journal, runtime.stop)
            before = time.perf_counter() - folds.opening
            scores = folds.score(list(questions.values()), limits, runtime.progress)
            answerer = folds.answerer
            scoring = time.perf_counter() - before - folds.opening
            setup = time.perf_counter() - clock - scoring
            keys = list(questions)
            table = self._read(keys, scores.figures() or [None] * len(keys))
            asked = Asked(questions, scores, table, folder, macs, scoring)
            further = self.further(work, walked, runtime, answerer, asked)
        if forward is None:
            share = folds.share
            forward = self.forward_seconds(answerer, round(share * len(model.feeds)))
            forward = forward and forward / share
        forward = forward or _forward(work, model, runtime, journal)
        memory = self.memory_use(answerer, runtime)
        del answerer, folds  # and the weights they hold
        final = further.get("table", table)
        unscored = _unscored(work, final) if scores.table else {}
        names = [name for name in work.names if name not in unscored] if scores.table else []
        ideal = ideal_forwards(prepared.model, macs, work.selection.candidates)
        whole_head = work.narrow and walked.scored.narrowed is None
        found = NodeScores(
            table=table,
            macs=macs,
            timing=Timing(setup, scoring, forward, ideal * _directions(work)),
            samples=len(scores.table),
            complete=scores.complete,
            engine=None if scores.table else "screen",
            unscored=unscored,
            stability=self._stability(work, keys, scores, unscored),
            screened={} if scores.table else screened(work, model, runtime),
            causes=causes_of(work, model, runtime),
            companions=model.companions,
            memory=memory,
            computed_in=model.computed_in,
            warnings=warnings_of(work, scores, final.harms(names, work.metric))
            + (WHOLE_HEAD,) * whole_head
            + further.pop("warnings", ()),
        )
        return replace(found, **further)

    def by_samples(self, work: Work, runtime: Runtime, folder: Path) -> SumsOf:
        """Return what computes the sums of some samples of `work`, as one of several processes.
        What it leaves in `folder` goes with them.

        Raises:
            InputError: NaN or infinity at the float model's outputs.
            UsageError: ranges of another model or scheme.
        """
        model = computed(work, ranges_of(work), runtime.provider)
        folds = self._folds(work, narrowed(work, model), runtime, folder, resumable=False)
        limits, questions = Limits(stop=runtime.stop), list(_questions(work, model).values())

        def sums(numbers: Sequence[int]) -> Mapping[int, Sequence[Sums]]:
            return folds.score(questions, limits, runtime.progress, numbers).table

        return sums

    def _folds(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> Folds[Answerer]:
        def open_one(part: ComputedModel) -> Answerer:
            return self.open(work, part, runtime, folder, resumable=resumable)

        return Folds(open_one, model)

    def _read(self, keys: Sequence[Key], found: Sequence[Figures | None]) -> ScoreTable:
        """Return the scores in figures, without those that the answers say nothing about."""
        nothing = dict.fromkeys(self.unknown)
        return read_answers(keys, [None if row is None else {**row, **nothing} for row in found])

    def _stability(
        self, work: Work, keys: Sequence[Key], scores: Scores, unscored: dict[str, str]
    ) -> dict[str, Stability]:
        names = [name for name in work.names if name not in unscored]
        tables = (self._read(keys, row) for row in scores.by_sample())
        return stability_of(tables, names, work.metric)


def _questions(work: Work, model: ComputedModel) -> dict[Key, Question]:
    return ask(work.selection.candidates, work.groups, work.direction, model.companions)


def ranges_of(work: Work) -> Ranges:
    """Return the ranges, which an engine that does not calibrate is given."""
    if work.ranges is None:
        raise AssertionError("ranges are calibrated before these engines are asked")
    return work.ranges


def causes_of(work: Work, model: ComputedModel, runtime: Runtime) -> dict[str, Cause]:
    """Return why nodes are sensitive, if there is time left to look."""
    late = work.deadline is not None and time.monotonic() >= work.deadline
    if late or isinstance(model.quantization, TensorQuantization):
        return {}
    searched = None if work.ranges is None else work.ranges.searched
    tried = searched is None or searched.why_not is None
    return causes(
        model.prepared,
        work.selection.candidates,
        model.quantization,
        model.feeds[0],
        runtime.memory,
        runtime.provider,
        () if work.ranges is None else work.ranges.smoothing,
        scheme=work.scheme if tried else work.scheme.plain(),
    )


def _directions(work: Work) -> int:
    return 2 if work.direction is Direction.BOTH else 1


def _forward(work: Work, model: ComputedModel, runtime: Runtime, journal: Journal | None) -> float:
    """Return the seconds of a forward; a run that goes on has them in its journal."""
    if journal is not None and _FORWARD in journal.entries:
        return float(journal.entries[_FORWARD])
    seconds = forward_seconds(
        model.prepared.model, model.feeds, runtime.provider, runtime.memory,
        scoring_ends(work.deadline, FOR_TIMING),
    )  # fmt: skip
    if journal is not None:
        journal.record(_FORWARD, seconds)
    return seconds


@contextlib.contextmanager
def _folder(journal: Journal | None) -> Iterator[Path]:
    """Yield the folder for states: the journal's, so that a later run finds them, or one that goes.

    An empty one of the journal's goes too.
    """
    if journal is None:
        with tempfile.TemporaryDirectory(prefix="qgraph-states-") as name:
            yield Path(name)
        return
    folder = journal.folder
    yield folder
    with contextlib.suppress(OSError):
        folder.rmdir()


def _unscored(work: Work, table: ScoreTable) -> dict[str, str]:
    """Return the candidates that have no score, alone or because their group has none."""
    found = table.solo if work.direction.has_solo else table.without
    failed = {name for name in work.names if name not in found}
    for group in work.groups:
        if group.name not in found or failed & set(group.members):
            failed |= set(group.members)
    if len(failed) == len(work.names):
        raise InputError(
            "quantizing any of the candidates makes the outputs NaN, infinite or of another shape",
            where=", ".join(work.scored.outputs),
            hint="Measure elsewhere with --outputs, or check the data.",
        )
    return dict.fromkeys(failed, _FAILED)

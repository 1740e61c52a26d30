"""The engine `gradient`, as qgraph asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from qgraph._graph.errors import UsageError
from qgraph._graph.flags import Flag
from qgraph._graph.run.memory import peak
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Figures
from qgraph._quantize.formats import beside, without_kernel
from qgraph._sensitivity.beside_scores import Estimate, MemoryUse
from qgraph._sensitivity.engines.gradient.answerer import GradientAnswerer
from qgraph._sensitivity.engines.gradient.gauss_newton import lenses
from qgraph._sensitivity.engines.gradient.left_out import ALL, with_left_out
from qgraph._sensitivity.engines.gradient.mixed import mixed_formats
from qgraph._sensitivity.engines.gradient.pairs import interactions
from qgraph._sensitivity.engines.gradient.sets import with_measured_sets
from qgraph._sensitivity.engines.gradient.side_by_side import other_quantizations, tables_of
from qgraph._sensitivity.engines.gradient.verifying import (
    NO_NUMBER,
    WORST,
    Walks,
    agreement_on,
    as_far_as_time_allows,
    measured_exactly,
    nodes_to_measure,
)
from qgraph._sensitivity.engines.question_engine import Asked, QuestionEngine
from qgraph._sensitivity.report import Score, Stability
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.questions import Answerer, Key
from qgraph._sensitivity.scoring.score_table import ScoreTable, read_answers
from qgraph._sensitivity.scoring.work import EngineOptions, Work

_NO_FORMATS = (
    "what an earlier run found of the other schemes is no longer there, and only the first one's"
    " scores are given; --fresh computes all of them again"
)

_WORST, _ONE_IN = 2, 16
"""Nodes that are measured by themselves, the worst by a metric: at most, and one of so many."""
_PARTLY = (
    "time ran out while nodes were measured to check the estimates: on {} of {} samples, and no"
    " score is exact"
)


class GradientOptions(EngineOptions):
    """`probes`: backward passes a sample for each figure that is estimated. `verify`: how many
    nodes are measured exactly after all were estimated. `gauss_newton`: whether a lens of second
    order is worked out beside the scores.
    """

    probes: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag(
            "gradient: backward passes per sample for each estimated figure.  [default: 1; with at"
            " most 64 output numbers 4; with at most 16 one for each]"
        ),
    ] = None
    verify: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag(
            "gradient: also measure up to N nodes exactly (the worst, and those near the cut of a"
            " profile), and report how well the estimates agree.",
            metavar="N",
        ),
    ] = None

    gauss_newton: Annotated[
        bool,
        Flag(
            "gradient: also compute the score of HAWQ-V2: the trace of each weight's Gauss-Newton"
            " matrix, times the weight's error. `qgraph compare --score gauss-newton` ranks by it."
        ),
    ] = False


class Gradient(QuestionEngine):
    """An estimate of every score from a few backward passes, however many nodes there are."""

    name = "gradient"
    options = GradientOptions
    one_by_one = True
    compares_formats = True
    goes_forward = True
    scoring_share = 0.6
    unknown = frozenset({"cosine", "top1_agreement"})

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse a metric that it has no estimate of, and a memory budget that is too small."""
        if work.metric in self.unknown:
            raise UsageError(
                f"--metric {work.metric} is not estimated by --engine gradient",
                hint="Rank by mse, sqnr_db, noise_to_signal or kl, or use --engine wavefront.",
            )
        if _options_of(work).verify and not work.direction.has_solo:
            raise UsageError(
                "--verify measures nodes alone, and --direction leave-one-out asks for none",
                hint="Leave --verify out, or score both directions.",
            )
        super().check(work, runtime)

    def open(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> GradientAnswerer:
        """Return a session that goes forward and back, or one per part where memory is short."""
        return GradientAnswerer(
            model.prepared,
            model.nodes,
            model.fake,
            model.scored,
            model.feeds,
            runtime.provider,
            runtime.memory,
            folder,
            _options_of(work).probes,
            cache(lambda part: other_quantizations(work, part or model, runtime)),
            {item.name: without_kernel(item, model.nodes) for item in work.formats},
            found.name if (found := beside(work.formats, work.scheme)) is not None else None,
            traces=_options_of(work).gauss_newton,
            alone=work.deadline is not None,
        )

    def forward_seconds(self, answerer: Answerer, samples: int) -> float | None:
        """Return what going forward took, where the model was run part by part."""
        return _own(answerer).forward_seconds(samples)

    def memory_use(self, answerer: Answerer, runtime: Runtime) -> MemoryUse | None:
        """Return what the passes took."""
        found = _own(answerer)
        return MemoryUse(
            budget=runtime.memory.budget,
            peak=peak(),
            streamed=found.in_parts,
            samples_at_once=found.at_once,
            spilled=found.spilled,
        )

    def further(
        self, work: Work, model: ComputedModel, runtime: Runtime, answerer: Answerer, asked: Asked
    ) -> dict[str, Any]:
        """Return how the scores were estimated, what pairs of nodes do together, and the scores
        with those that were measured to verify.
        """
        own, scores = _own(answerer), asked.scores
        own.close()
        if not scores.table:
            return {}
        found: dict[str, Any] = {}
        walks = Walks(model, runtime, asked.folder, whole=not own.in_parts)
        asked, exact = self._without_gradient(work, model, runtime, walks, asked)
        feeds = [model.feeds[number] for number in scores.table]
        others, total = own.others(feeds), scores.table.totals()[0]
        estimate = Estimate(
            probes=own.probes.rounds,
            by_position=own.probes.by_position,
            measured={**own.exact, **{name: NO_NUMBER for kind, name in exact if kind == "solo"}},
            measured_left_out=tuple(name for kind, name in exact if kind == "without"),
        )
        if _options_of(work).gauss_newton:
            found["gauss_newton"] = self._lens(work, model, own.traces(feeds), total.count)
        if work.formats:
            found["formats"] = tables_of(others or {}, list(asked.questions), self._read)
            found["warnings"] = (_NO_FORMATS,) * (others is None)
        before = estimate.measured.keys()
        asked, estimate, notes = self._verified(work, model, runtime, walks, asked, estimate)
        found["warnings"] = found.get("warnings", ()) + notes
        pairs, whole, samples = own.pairs(feeds), exact.get(ALL), list(scores.table)
        if whole is None and not walks.whole:  # takes the weights from the disk once more
            everything = {ALL: asked.questions[ALL]}
            whole = measured_exactly(work, model, runtime, walks, everything, samples).get(ALL)
        if pairs is not None:
            verified, count = estimate.measured.keys() - before, len(own.nodes)
            first = {key: matrix[:count, :count] for key, matrix in pairs.items()}
            together = interactions(work, model, own.nodes, first, total, asked.table, verified)
            every = walks.all if walks.whole else None
            found["interactions"], seen = with_measured_sets(
                work, model, runtime, together, samples, every, whole
            )
            whole = whole or seen
            other = beside(work.formats, work.scheme)
            if other is not None and own.beside is not None and other.name in found["formats"]:
                walks.close()
                tables = asked.table, found["formats"][other.name]
                found["mixed"] = mixed_formats(
                    work, model, runtime, other, own.nodes, pairs, total, tables, verified, samples
                )
        table, estimate = with_left_out(work, model, runtime, walks, asked, estimate, whole)
        return found | {"table": table, "estimate": estimate}

    def _without_gradient(
        self, work: Work, model: ComputedModel, runtime: Runtime, walks: Walks, asked: Asked
    ) -> tuple[Asked, Mapping[Key, Figures]]:
        """Return what was asked with exact scores where a gradient is no number, and these."""
        rows = asked.scores.figures()
        failed = {
            key: asked.questions[key]
            for key, row in zip(asked.questions, rows, strict=True)
            if row is None
        }
        samples = list(asked.scores.table)
        exact = measured_exactly(work, model, runtime, walks, failed, samples)
        nothing = dict.fromkeys(self.unknown)
        known = [
            exact.get(key) if row is None else {**row, **nothing}
            for key, row in zip(asked.questions, rows, strict=True)
        ]
        return replace(asked, table=read_answers(list(asked.questions), known)), exact

    def _lens(
        self, work: Work, model: ComputedModel, traces: Mapping[str, float], count: int
    ) -> dict[str, float]:
        """Return node → its Gauss-Newton lens."""
        nodes, graph = work.selection.candidates, model.prepared.model
        return lenses(graph, nodes, model.fake, traces, count)

    def to_verify(
        self,
        work: Work,
        harms: Mapping[str, float],
        stability: Mapping[str, Stability],
        asked: Asked,
    ) -> dict[str, str]:
        """Return the nodes that are measured exactly after all were estimated → why."""
        verify = _options_of(work).verify
        return nodes_to_measure(harms, stability, verify) if verify else {}

    def _verified(
        self,
        work: Work,
        model: ComputedModel,
        runtime: Runtime,
        walks: Walks,
        asked: Asked,
        estimate: Estimate,
    ) -> tuple[Asked, Estimate, tuple[str, ...]]:
        """Return what was asked with some nodes measured, how the estimates stand to these, and
        what to warn of.
        """
        table = asked.table
        names = [n for n in work.names if n in table.solo and n not in estimate.measured]
        harms = dict(zip(names, table.harms(names, work.metric), strict=True))
        stability = self._stability(work, list(asked.questions), asked.scores, {})
        verify = self.to_verify(work, harms, stability, asked)
        why = verify or (_worst(work, table, harms) if walks.whole else {})
        if not why:
            return asked, estimate, ()
        questions = {name: asked.questions["solo", name] for name in why}
        samples = list(asked.scores.table)
        seen = as_far_as_time_allows(work, model, runtime, walks, questions, samples)
        names = list(questions)
        verified = agreement_on(asked, seen, names, work.metric) if verify else None
        if not seen.complete:
            notes = (_PARTLY.format(len(seen.table), len(samples)),) * (verified is not None)
            return asked, estimate.model_copy(update={"verified": verified}), notes
        exact = {
            name: Score.of(item)
            for name, item in zip(names, seen.figures(), strict=True)
            if item is not None
        }
        measured = estimate.measured | {name: why[name] for name in exact}
        asked = replace(asked, table=replace(table, solo={**table.solo, **exact}))
        found = estimate.model_copy(update={"measured": measured, "verified": verified})
        return asked, found, ()


def _worst(work: Work, table: ScoreTable, harms: Mapping[str, float]) -> dict[str, str]:
    """Return the nodes whose estimates weigh most in predictions of sets, by the metric that ranks
    and by MSE → why they are measured.
    """
    if not work.direction.has_solo:
        return {}
    by_error = dict(zip(harms, table.harms(harms, "mse"), strict=True))
    count = min(_WORST, len(harms) // _ONE_IN)
    ordered = (sorted(by, key=lambda name: -by[name])[:count] for by in (harms, by_error))
    return dict.fromkeys((name for names in ordered for name in names), WORST)


def _options_of(work: Work) -> GradientOptions:
    """Return the options, the defaults where none were given to this engine."""
    return work.options if isinstance(work.options, GradientOptions) else GradientOptions()


def _own(answerer: Answerer) -> GradientAnswerer:
    if not isinstance(answerer, GradientAnswerer):
        raise AssertionError("another engine's answerer")  # noqa: TRY004
    return answerer

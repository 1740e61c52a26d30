"""The engine `gradient`, as qgraph asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.errors import UsageError
from qgraph._graph.flags import Flag
from qgraph._graph.run.memory import peak
from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.engines.gradient.answerer import GradientAnswerer
from qgraph._sensitivity.engines.gradient.pairs import interactions
from qgraph._sensitivity.engines.question_engine import QuestionEngine
from qgraph._sensitivity.report import Estimate, MemoryUse
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.loop import Scores
from qgraph._sensitivity.scoring.questions import Answerer
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import EngineOptions, Work


class GradientOptions(EngineOptions):
    """`probes`: backward passes a sample for each figure that is estimated."""

    probes: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag(
            "gradient: backward passes a sample for each figure estimated.  [default: 1; where at"
            " most 64 numbers are compared, 4, or up to 16 one for each]"
        ),
    ] = None


class Gradient(QuestionEngine):
    """An estimate of every score from a few backward passes, however many nodes there are."""

    name = "gradient"
    options = GradientOptions
    one_by_one = True
    unknown = frozenset({"cosine", "top1_agreement"})

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse a metric that it has no estimate of, and a memory budget that is too small."""
        if work.metric in self.unknown:
            raise UsageError(
                f"--metric {work.metric} is not estimated by --engine gradient",
                hint="Rank by mse, sqnr_db, noise_to_signal or kl, or use --engine wavefront.",
            )
        super().check(work, runtime)

    def open(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> GradientAnswerer:
        """Return a session that goes forward and back, or one per part where memory is short."""
        if isinstance(model.quantization, TensorQuantization):
            raise AssertionError("not a scheme that the engine computes")  # noqa: TRY004
        options = work.options
        return GradientAnswerer(
            model.prepared,
            [*work.selection.candidates, *(companion.node for companion in model.companions)],
            model.quantization,
            model.scored,
            model.feeds[0],
            runtime.provider,
            runtime.memory,
            folder,
            options.probes if isinstance(options, GradientOptions) else None,
        )

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
        self,
        work: Work,
        model: ComputedModel,
        answerer: Answerer,
        scores: Scores,
        table: ScoreTable,
    ) -> dict[str, Any]:
        """Return how the scores were estimated, and what pairs of nodes do together."""
        found = _own(answerer)
        feeds: Sequence[Any] = [model.feeds[number] for number in scores.table]
        pairs = found.pairs(feeds) if feeds else None
        return {
            "estimate": Estimate(
                probes=found.probes.rounds,
                by_position=found.probes.by_position,
                measured=dict(found.exact),
            ),
            "interactions": ()
            if pairs is None
            else interactions(work, model, found.nodes, pairs, scores.table.totals()[0], table),
        }


def _own(answerer: Answerer) -> GradientAnswerer:
    if not isinstance(answerer, GradientAnswerer):
        raise AssertionError("another engine's answerer")  # noqa: TRY004
    return answerer

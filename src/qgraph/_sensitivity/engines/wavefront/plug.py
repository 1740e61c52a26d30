"""The engine `wavefront`, as qgraph asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgraph._graph.run.memory import peak
from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.beside_scores import MemoryUse
from qgraph._sensitivity.engines.measured_sets import exact_interactions
from qgraph._sensitivity.engines.question_engine import Asked, QuestionEngine
from qgraph._sensitivity.engines.wavefront.engine import WavefrontAnswerer
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.questions import Answerer
from qgraph._sensitivity.scoring.work import Work


class Wavefront(QuestionEngine):
    """The fastest that is exact; an answer costs what lies below its nodes."""

    name = "wavefront"
    one_by_one = True

    def open(
        self, work: Work, model: ComputedModel, runtime: Runtime, folder: Path, *, resumable: bool
    ) -> WavefrontAnswerer:
        """Return a session per segment, or one at a time where memory is short."""
        return WavefrontAnswerer(
            model.prepared,
            model.nodes,
            model.fake,
            model.scored,
            model.feeds[0],
            runtime.provider,
            memory=runtime.memory,
            folder=folder,
            resumable=resumable,
        )

    def further(
        self, work: Work, model: ComputedModel, runtime: Runtime, answerer: Answerer, asked: Asked
    ) -> dict[str, Any]:
        """Return what the sets of nodes do that profiles have by default, where the model fits into
        memory as a whole.
        """
        if not isinstance(answerer, WavefrontAnswerer) or answerer.sessions.streamed:
            return {}
        folds = Folds(lambda _: answerer, model)
        found = exact_interactions(work, model, runtime, asked, lambda: folds)
        answerer.sessions.close()
        return {"interactions": found}

    def memory_use(self, answerer: Answerer, runtime: Runtime) -> MemoryUse | None:
        """Return what the walks took."""
        if not isinstance(answerer, WavefrontAnswerer):
            return None
        return MemoryUse(
            budget=runtime.memory.budget,
            peak=peak(),
            streamed=answerer.sessions.streamed,
            samples_at_once=answerer.at_once,
            spilled=answerer.spilled,
        )

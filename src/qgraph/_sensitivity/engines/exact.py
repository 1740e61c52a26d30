"""Questions that an engine has answered exactly, beside what it finds itself: by forwards of the
whole model with switches, or by walks over what lies below a few nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.runtime import Runtime
from qgraph._sensitivity.engines.switch import SwitchAnswerer, node_switches
from qgraph._sensitivity.scoring.computed_model import ComputedModel
from qgraph._sensitivity.scoring.folds import Folds
from qgraph._sensitivity.scoring.loop import Limits, Scores
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.scoring.work import Work


class Exactly(StrEnum):
    """How questions are answered."""

    SWITCHES = "switches"
    WALKS = "walks"


def exact_scores(
    work: Work,
    model: ComputedModel,
    runtime: Runtime,
    by: Exactly,
    opened: Callable[[], Folds[Any]],
    questions: Sequence[Question],
    samples: Sequence[int],
    progress: Progress = silent,
) -> Scores:
    """Return the exact sums of questions over as many of the samples as there is time for: by what
    is `opened`, or elsewhere, where `work` says so, the model is in its scheme alone, and they can.
    """
    if work.elsewhere is not None and not model.fake.others:
        found = work.elsewhere(by, questions, samples)
        if found is not None:
            return found
    limits = Limits(work.deadline, None, runtime.stop)
    return opened().score(questions, limits, progress, samples)


def by_switches(model: ComputedModel, runtime: Runtime) -> Folds[SwitchAnswerer]:
    """Return what answers by forwards; the whole model is open with its quantized weights."""

    def open_one(part: ComputedModel) -> SwitchAnswerer:
        return node_switches(part.prepared, part.nodes, part.fake, part.scored, runtime.provider)

    return Folds(open_one, model)

"""A variant looked at sample by sample, here or by another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qgraph._evaluation.settings import EvaluationSettings
from qgraph._evaluation.variants import InspectedModel
from qgraph._exporters.tasks import ComparesInside, Observation, ObservesSamples, Task
from qgraph._graph.edit.selecting import with_outputs
from qgraph._graph.io.models import read_model
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.partwise import PartwiseSession
from qgraph._graph.run.session import Session, open_session
from qgraph._graph.run.settings import Semantics
from qgraph._graph.tensors import Feed


@dataclass(frozen=True, slots=True, eq=False)
class VariantObservations:
    """What a variant shows on samples; `placement`, `elsewhere`: as in `Variant`."""

    seen: Sequence[Observation]
    placement: dict[str, int]
    elsewhere: dict[str, int]


def observed(
    model: InspectedModel,
    task: ObservesSamples,
    numbers: Sequence[int],
    settings: EvaluationSettings,
) -> VariantObservations:
    """Return what a variant shows on some samples of a task; the float model comes first."""
    feeds = [task.feeds[number] for number in numbers]
    session = session_of(model, task, feeds, settings)
    seen = [task.observe(number, session, first=model.is_float) for number in numbers]
    return VariantObservations(seen, session.placement(), session.elsewhere())


def session_of(
    model: InspectedModel,
    task: Task,
    feeds: Sequence[Feed],
    settings: EvaluationSettings,
    progress: Progress = silent,
) -> Session:
    """Return a session for these feeds, part by part where memory is short."""
    if settings.in_parts is None:
        inner = task.inner if isinstance(task, ComparesInside) else ()
        return open_variant(model, settings, Semantics.EXACT, inner)
    return PartwiseSession(
        model.path,
        feeds,
        settings.in_parts,
        settings.provider,
        allow_cpu_nodes=settings.allow_cpu_nodes,
        progress=progress,
        title=f"running {model.name} part by part",
    )


def open_variant(
    model: InspectedModel,
    settings: EvaluationSettings,
    semantics: Semantics,
    inner: Sequence[str] = (),
) -> Session:
    """Return a session; `inner`: tensors that are to be outputs of it, too."""
    return open_session(
        with_outputs(read_model(model.path), inner) if inner else model.path,
        settings.provider,
        semantics,
        allow_cpu_nodes=settings.allow_cpu_nodes,
    )

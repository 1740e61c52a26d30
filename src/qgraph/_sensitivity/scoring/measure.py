"""Measuring sensitivity: from a prepared model and feeds to the report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from qgraph._graph.edit.tensor_switches import TensorQuantization
from qgraph._graph.errors import InputError, LimitError
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.forward import forward_seconds
from qgraph._graph.run.memory import Memory, peak
from qgraph._sensitivity.engines.questions import Key, ScoringEngine
from qgraph._sensitivity.engines.screen import screen
from qgraph._sensitivity.engines.switch import SwitchEngine
from qgraph._sensitivity.engines.tensor_switch import TensorSwitchEngine
from qgraph._sensitivity.engines.wavefront.engine import WavefrontEngine
from qgraph._sensitivity.explain.causes import causes
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.ranking.order import require_measurable
from qgraph._sensitivity.report import Cause, Direction, Engine, MemoryUse, Sensitivity
from qgraph._sensitivity.scoring.assemble import Facts, Means, Timing, assemble
from qgraph._sensitivity.scoring.computed_model import WHOLE_HEAD, Form, form_of, narrowed
from qgraph._sensitivity.scoring.job import Context, Task
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.loop import Limits, score
from qgraph._sensitivity.scoring.score_table import Answers, ask
from qgraph._sensitivity.scoring.settling import Settling


def measure(
    task: Task, context: Context, journal: Journal | None = None, progress: Progress = silent
) -> Sensitivity:
    """Return the scores of every candidate and group, over the samples the deadline allows.

    Where it allows none, nodes are ranked by what quantizing them does to their own output.

    Raises:
        InputError: the model has no candidates, or NaN or infinity at its outputs.
        UsageError: ranges of another model or scheme, or a metric these outputs do not have.
    """
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    candidates = task.selection.candidates
    if not candidates:
        raise InputError(
            "the model has no node to quantize: no MatMul, Gemm or convolution with constant"
            " weights is left after what is kept float",
            where=str(task.prepared.path),
        )
    require_measurable(task.metric, logits=task.scored.logits)
    memory = task.memory or Memory.of(None)
    form = form_of(task)
    macs = measure_macs(form.prepared, form.feeds[0], task.provider, memory)
    forward = _forward(task, form, memory, journal)
    questions = ask(candidates, task.groups, task.direction, form.companions)
    with _folder(journal) as folder:
        walked = narrowed(task, form)
        engine = _open(task, walked, memory, folder, resumable=journal is not None)
        setup = time.perf_counter() - clock
        limits = Limits(task.deadline, journal, _settling(task, list(questions)))
        scores = score(engine, list(questions.values()), form.feeds, limits, progress)
    scoring = time.perf_counter() - clock - setup
    screened = {} if scores.samples else _screened(task, form, memory)
    whole_head = task.narrow and walked.scored.narrowed is None
    warnings = (WHOLE_HEAD,) * whole_head
    means = Means(_memory_use(engine, memory), form.computed_in, warnings)
    del engine  # and the weights it holds
    facts = Facts(macs, _causes(task, form, memory))
    ideal = ideal_forwards(form.prepared.model, macs, candidates)
    seconds = time.perf_counter() - clock
    both = 2 if task.direction is Direction.BOTH else 1
    timing = Timing(started, seconds, setup, scoring, forward, ideal * both)
    answers = Answers(list(questions), scores, screened)
    return assemble(task, context, answers, facts, timing, means)


def _settling(task: Task, keys: Sequence[Key]) -> Settling | None:
    if not task.adaptive:
        return None
    names = [node.name for node in task.selection.candidates]
    return Settling(keys, names, task.groups, task.metric)


_FORWARD = "forward seconds"


def _forward(task: Task, form: Form, memory: Memory, journal: Journal | None) -> float:
    """Return the seconds of a forward; a run that goes on has them in its journal."""
    if journal is not None and _FORWARD in journal.entries:
        return float(journal.entries[_FORWARD])
    seconds = forward_seconds(form.prepared.model, form.feeds, task.provider, memory)
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


def _causes(task: Task, form: Form, memory: Memory) -> dict[str, Cause]:
    """Return why nodes are sensitive, if there is time left to look."""
    late = task.deadline is not None and time.monotonic() >= task.deadline
    if late or isinstance(form.quantization, TensorQuantization):
        return {}
    nodes = task.selection.candidates
    return causes(form.prepared, nodes, form.quantization, form.feeds[0], memory, task.provider)


def _memory_use(engine: ScoringEngine, memory: Memory) -> MemoryUse | None:
    if not isinstance(engine, WavefrontEngine):
        return None
    return MemoryUse(
        budget=memory.budget,
        peak=peak(),
        streamed=engine.sessions.streamed,
        samples_at_once=engine.at_once,
        spilled=engine.spilled,
    )


def _screened(task: Task, form: Form, memory: Memory) -> dict[str, float]:
    """Return what is left to say when no sample was scored in time."""
    if isinstance(form.quantization, TensorQuantization):
        raise LimitError(
            "the time budget ran out before one sample was scored",
            hint="Give more time, a shorter sample, or fewer nodes with --exclude.",
        )
    nodes = task.selection.candidates
    sample = form.feeds[:1]
    return screen(form.prepared, nodes, form.quantization, sample, task.provider, memory)


def _open(
    task: Task, form: Form, memory: Memory, folder: Path, *, resumable: bool
) -> ScoringEngine:
    candidates = task.selection.candidates
    if isinstance(form.quantization, TensorQuantization):
        return TensorSwitchEngine(
            form.prepared, candidates, form.quantization, form.scored, task.provider
        )
    nodes = [*candidates, *(companion.node for companion in form.companions)]
    if task.engine is Engine.SWITCH:
        return SwitchEngine(form.prepared, nodes, form.quantization, form.scored, task.provider)
    return WavefrontEngine(
        form.prepared,
        nodes,
        form.quantization,
        form.scored,
        form.feeds[0],
        task.provider,
        memory=memory,
        folder=folder,
        resumable=resumable,
    )

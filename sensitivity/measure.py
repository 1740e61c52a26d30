"""Measuring sensitivity: from a prepared model and feeds to the report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from graph.edit.fake_quantize import FakeQuantization
from graph.edit.prepare import PreparedModel
from graph.edit.tensor_switches import TensorQuantization
from graph.edit.widen import FeedsInSingle, in_single, is_half
from graph.errors import InputError, LimitError
from graph.progress import Progress, silent
from graph.runtime.forward import forward_seconds
from graph.runtime.memory import Memory, peak
from graph.runtime.session import Provider
from graph.tensors import Feed
from quantize.companions import Companion, find_companions
from quantize.emit import fake_quantization, quantization_parameters
from quantize.inc_scheme import inc_parameters
from quantize.ranges import ranges_for
from quantize.scheme import SchemeName
from sensitivity.answers import Answers, ask
from sensitivity.assemble import Facts, Means, Timing, assemble
from sensitivity.causes import causes
from sensitivity.cost import ideal_forwards, measure_macs
from sensitivity.engine import ScoringEngine
from sensitivity.journal import Journal
from sensitivity.ranking import require_measurable
from sensitivity.report import Cause, Direction, Engine, MemoryUse, Sensitivity
from sensitivity.scoring import Limits, score
from sensitivity.screen import screen
from sensitivity.switch import SwitchEngine
from sensitivity.task import Context, Task
from sensitivity.tensor_switch import TensorSwitchEngine
from sensitivity.wavefront.engine import WavefrontEngine


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
    form = _form(task)
    macs = measure_macs(form.prepared, form.feeds[0], task.provider, memory)
    forward = _forward(task, form, memory, journal)
    questions = ask(candidates, task.groups, task.direction, form.companions)
    with _folder(journal) as folder:
        engine = _open(task, form, memory, folder, resumable=journal is not None)
        setup = time.perf_counter() - clock
        limits = Limits(task.deadline, journal)
        scores = score(engine, list(questions.values()), form.feeds, limits, progress)
    scoring = time.perf_counter() - clock - setup
    screened = {} if scores.samples else _screened(task, form, memory)
    means = Means(_memory_use(engine, memory), form.computed_in)
    del engine  # and the weights it holds
    facts = Facts(macs, _causes(task, form, memory))
    ideal = ideal_forwards(form.prepared.model, macs, candidates)
    seconds = time.perf_counter() - clock
    both = 2 if task.direction is Direction.BOTH else 1
    timing = Timing(started, seconds, setup, scoring, forward, ideal * both)
    answers = Answers(list(questions), scores, screened)
    return assemble(task, context, answers, facts, timing, means)


@dataclass(frozen=True, slots=True, eq=False)
class _Form:
    """The model and data in the precision that is computed with, and what is quantized how:
    tensors where INC's scheme is asked for, else what nodes read. `companions`: residual Adds that
    a candidate takes along.
    """

    prepared: PreparedModel
    feeds: Sequence[Feed]
    quantization: FakeQuantization | TensorQuantization
    computed_in: str | None
    companions: Sequence[Companion] = ()


def _form(task: Task) -> _Form:
    model, candidates = task.prepared.model, task.selection.candidates
    if task.scheme.name is SchemeName.INC_CPU:
        ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, candidates, "ranges")
        return _Form(task.prepared, task.feeds, inc_parameters(model, candidates, ranges), None)
    companions = find_companions(model, candidates)
    nodes = [*candidates, *(companion.node for companion in companions)]
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, nodes, "ranges")
    quantization = fake_quantization(quantization_parameters(model, nodes, ranges, task.scheme))
    if task.provider is not Provider.CPU or not is_half(model):
        return _Form(task.prepared, task.feeds, quantization, None, companions)
    single = in_single(task.prepared)
    return _Form(single, FeedsInSingle(task.feeds), quantization.in_single(), "fp32", companions)


_FORWARD = "forward seconds"


def _forward(task: Task, form: _Form, memory: Memory, journal: Journal | None) -> float:
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


def _causes(task: Task, form: _Form, memory: Memory) -> dict[str, Cause]:
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


def _screened(task: Task, form: _Form, memory: Memory) -> dict[str, float]:
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
    task: Task, form: _Form, memory: Memory, folder: Path, *, resumable: bool
) -> ScoringEngine:
    candidates = task.selection.candidates
    if isinstance(form.quantization, TensorQuantization):
        return TensorSwitchEngine(
            form.prepared, candidates, form.quantization, task.scored, task.provider
        )
    nodes = [*candidates, *(companion.node for companion in form.companions)]
    if task.engine is Engine.SWITCH:
        return SwitchEngine(form.prepared, nodes, form.quantization, task.scored, task.provider)
    return WavefrontEngine(
        form.prepared,
        nodes,
        form.quantization,
        task.scored,
        form.feeds[0],
        task.provider,
        memory=memory,
        folder=folder,
        resumable=resumable,
    )

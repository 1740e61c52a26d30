"""Measuring sensitivity: from a prepared model and feeds to the report."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from graph.edit.fake_quantize import FakeQuantization
from graph.errors import InputError, LimitError
from graph.progress import Progress, silent
from graph.runtime.forward import forward_seconds
from quantize.emit import fake_quantization, quantization_parameters
from quantize.inc_scheme import inc_parameters
from quantize.ranges import ranges_for
from quantize.scheme import SchemeName
from sensitivity.answers import Answers, ask
from sensitivity.assemble import Timing, assemble
from sensitivity.cost import ideal_forwards, measure_macs
from sensitivity.engine import ScoringEngine
from sensitivity.journal import Journal
from sensitivity.ranking import require_measurable
from sensitivity.report import Direction, Engine, Sensitivity
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
    macs = measure_macs(task.prepared, task.feeds[0], task.provider)
    engine = _open(task)
    forward = forward_seconds(task.prepared.model, task.feeds, task.provider)
    setup = time.perf_counter() - clock
    questions = ask(task.selection.candidates, task.groups, task.direction)
    limits = Limits(task.deadline, journal)
    scores = score(engine, list(questions.values()), task.feeds, limits, progress)
    screened = {} if scores.samples else _screened(task)
    ideal = ideal_forwards(task.prepared.model, macs, candidates)
    seconds = time.perf_counter() - clock
    both = 2 if task.direction is Direction.BOTH else 1
    timing = Timing(started, seconds, setup, seconds - setup, forward, ideal * both)
    return assemble(task, context, Answers(list(questions), scores, screened), macs, timing)


def _screened(task: Task) -> dict[str, float]:
    """Return what is left to say when no sample was scored in time."""
    if task.scheme.name is SchemeName.INC_CPU:
        raise LimitError(
            "the time budget ran out before one sample was scored",
            hint="Give more time, a shorter sample, or fewer nodes with --exclude.",
        )
    nodes = task.selection.candidates
    return screen(task.prepared, nodes, _quantization(task), task.feeds[:1], task.provider)


def _open(task: Task) -> ScoringEngine:
    candidates = task.selection.candidates
    where = "ranges"
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, candidates, where)
    if task.scheme.name is SchemeName.INC_CPU:
        as_inc = inc_parameters(task.prepared.model, candidates, ranges)
        return TensorSwitchEngine(task.prepared, candidates, as_inc, task.scored, task.provider)
    quantization = _quantization(task)
    if task.engine is Engine.SWITCH:
        return SwitchEngine(task.prepared, candidates, quantization, task.scored, task.provider)
    return WavefrontEngine(
        task.prepared, candidates, quantization, task.scored, task.feeds[0], task.provider
    )


def _quantization(task: Task) -> FakeQuantization:
    nodes = task.selection.candidates
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, nodes, "ranges")
    return fake_quantization(quantization_parameters(task.prepared.model, nodes, ranges))

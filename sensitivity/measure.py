"""Measuring sensitivity: from a prepared model and feeds to the report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from graph.edit.prepare import PreparedModel
from graph.errors import InputError, LimitError
from graph.progress import Progress, silent
from graph.runtime.forward import forward_seconds
from graph.runtime.session import Provider, describe_device
from graph.tensors import Feed
from quantize.emit import fake_quantization, quantization_parameters
from quantize.inc_scheme import inc_parameters
from quantize.ranges import ModelRef, Ranges, ranges_for
from quantize.scheme import Scheme, SchemeName
from quantize.selection import Selection
from sensitivity.answers import Answers, ask
from sensitivity.cost import ideal_forwards, measure_macs
from sensitivity.engine import Scored, ScoringEngine
from sensitivity.groups import Group
from sensitivity.journal import Journal
from sensitivity.ranking import require_measurable
from sensitivity.report import (
    Baseline,
    Direction,
    Engine,
    GroupScore,
    KeptNode,
    Metric,
    NodeScore,
    Run,
    Sensitivity,
)
from sensitivity.scoring import Limits, Scores, score
from sensitivity.switch import SwitchEngine
from sensitivity.tensor_switch import TensorSwitchEngine
from sensitivity.wavefront.engine import WavefrontEngine


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is asked: which nodes, on which data, scored where and how."""

    prepared: PreparedModel
    selection: Selection
    groups: tuple[Group, ...]
    feeds: Sequence[Feed]
    scored: Scored
    scheme: Scheme
    ranges: Ranges
    direction: Direction = Direction.BOTH
    metric: Metric = Metric.MSE
    provider: Provider = Provider.CPU
    engine: Engine = Engine.WAVEFRONT
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What the report says about the run beside its figures."""

    version: str
    packages: Mapping[str, str]
    data: str
    synthetic: bool
    seed: int


@dataclass(frozen=True, slots=True)
class _Timing:
    started: str
    seconds: float
    setup: float
    scoring: float
    forward: float
    ideal: float


def measure(
    task: Task, context: Context, journal: Journal | None = None, progress: Progress = silent
) -> Sensitivity:
    """Return the scores of every candidate and group.

    Raises:
        LimitError: the deadline passed before one sample was scored.
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
    if not scores.samples:
        raise LimitError(
            "the time budget ran out before one sample was scored",
            hint="Give more time, a shorter sample, or fewer nodes with --exclude.",
        )
    timing = _Timing(
        started,
        seconds=time.perf_counter() - clock,
        setup=setup,
        scoring=time.perf_counter() - clock - setup,
        forward=forward,
        ideal=ideal_forwards(task.prepared.model, macs, candidates)
        * (2 if task.direction is Direction.BOTH else 1),
    )
    return _report(task, context, Answers(list(questions), scores), macs, timing)


def fingerprint(task: Task, context: Context) -> dict[str, Any]:
    """Return what two runs must share for one to go on with the other's journal."""
    return {
        "model": task.prepared.id.sha256,
        "candidates": _digest([node.name for node in task.selection.candidates]),
        "groups": _digest([[group.name, *group.members] for group in task.groups]),
        "ranges": _digest([[r.name, r.rmin, r.rmax] for r in task.ranges.tensors]),
        "scheme": task.scheme.model_dump(mode="json"),
        "outputs": list(task.scored.outputs),
        "direction": task.direction,
        "engine": task.engine,
        "provider": task.provider,
        "samples": [_digest_of_feed(feed) for feed in task.feeds],
        "qgraph": context.version,
        "packages": dict(context.packages),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _digest_of_feed(feed: Feed) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _open(task: Task) -> ScoringEngine:
    candidates = task.selection.candidates
    where = "ranges"
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, candidates, where)
    if task.scheme.name is SchemeName.INC_CPU:
        as_inc = inc_parameters(task.prepared.model, candidates, ranges)
        return TensorSwitchEngine(task.prepared, candidates, as_inc, task.scored, task.provider)
    parameters = quantization_parameters(task.prepared.model, candidates, ranges)
    quantization = fake_quantization(parameters)
    if task.engine is Engine.SWITCH:
        return SwitchEngine(task.prepared, candidates, quantization, task.scored, task.provider)
    return WavefrontEngine(
        task.prepared, candidates, quantization, task.scored, task.feeds[0], task.provider
    )


def _report(
    task: Task,
    context: Context,
    answers: Answers,
    macs: Mapping[str, int],
    timing: _Timing,
) -> Sensitivity:
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelRef.of(task.prepared.id),
        scheme=task.scheme,
        run=_run(task, context, timing, answers.scores),
        metric=task.metric,
        outputs=task.scored.outputs,
        baseline=Baseline(all_quantized=answers.all_quantized()),
        nodes=_node_scores(task, answers, macs),
        groups=tuple(
            GroupScore(
                name=group.name,
                members=group.members,
                solo=answers.solo(group.name),
                leave_one_out=answers.without(group.name),
            )
            for group in task.groups
        ),
        keep=tuple(
            KeptNode(name=k.name, op_type=task.selection.op_types[k.name], reason=k.reason)
            for k in task.selection.kept
        ),
        renamed=task.prepared.renamed,
    )


def _node_scores(task: Task, answers: Answers, macs: Mapping[str, int]) -> tuple[NodeScore, ...]:
    nodes = task.selection.candidates
    names = [node.name for node in nodes]
    group_of = {member: group.name for group in task.groups for member in group.members}
    order = answers.ranks(names, task.metric)
    spread = answers.stability(names, task.metric)
    return tuple(
        NodeScore(
            name=node.name,
            op_type=node.op_type,
            scope=node.scope,
            group=group_of.get(node.name),
            params=node.weight.params if node.weight else 0,
            macs=macs[node.name],
            rank=order[index],
            solo=answers.solo(node.name),
            leave_one_out=answers.without(node.name),
            stability=spread[index] if spread else None,
        )
        for index, node in enumerate(nodes)
    )


def _run(task: Task, context: Context, timing: _Timing, scores: Scores) -> Run:
    return Run(
        qgraph=context.version,
        engine=task.engine,
        direction=task.direction,
        provider=task.provider,
        device=describe_device(task.provider),
        samples=len(scores.samples),
        seed=context.seed,
        data=context.data,
        synthetic=context.synthetic,
        packages=dict(context.packages),
        started=timing.started,
        seconds=timing.seconds,
        setup_seconds=timing.setup,
        scoring_seconds=timing.scoring,
        forward_seconds=timing.forward,
        forward_equivalents=timing.scoring / timing.forward,
        ideal_forward_equivalents=timing.ideal,
        complete=scores.complete,
    )

"""Measuring sensitivity: from a prepared model and feeds to the report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from graph.edit.prepare import PreparedModel
from graph.errors import InputError
from graph.progress import Progress, silent
from graph.runtime.distance import Distances
from graph.runtime.forward import forward_seconds
from graph.runtime.session import Provider, describe_device
from graph.tensors import Feed
from quantize.emit import fake_quantization, quantization_parameters
from quantize.ranges import ModelRef, Ranges, ranges_for
from quantize.scheme import Scheme
from quantize.selection import Selection
from sensitivity.cost import ideal_forwards, measure_macs
from sensitivity.groups import Group
from sensitivity.ranking import badness, ranks, require_measurable
from sensitivity.report import (
    Baseline,
    Direction,
    Engine,
    GroupScore,
    KeptNode,
    Metric,
    NodeScore,
    Run,
    Score,
    Sensitivity,
)
from sensitivity.switch import Question, Scored, SwitchEngine


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


def measure(task: Task, context: Context, progress: Progress = silent) -> Sensitivity:
    """Return the scores of every candidate and group.

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
    questions = _questions(task)
    answers = engine.distances(list(questions.values()), task.feeds, task.scored, progress)
    scores = dict(zip(questions, answers, strict=True))
    timing = _Timing(
        started,
        seconds=time.perf_counter() - clock,
        setup=setup,
        scoring=time.perf_counter() - clock - setup,
        forward=forward,
        ideal=ideal_forwards(task.prepared.model, macs, candidates)
        * (2 if task.direction is Direction.BOTH else 1),
    )
    return _report(task, context, scores, macs, timing)


def _open(task: Task) -> SwitchEngine:
    candidates = task.selection.candidates
    where = "ranges"
    ranges = ranges_for(task.ranges, task.prepared.id, task.scheme, candidates, where)
    parameters = quantization_parameters(task.prepared.model, candidates, ranges)
    return SwitchEngine(task.prepared, candidates, fake_quantization(parameters), task.provider)


_Key = tuple[str, str]
_ALL: _Key = ("all", "")


def _questions(task: Task) -> dict[_Key, Question]:
    """Return (direction, unit) → the set of quantized nodes."""
    everything = frozenset(node.name for node in task.selection.candidates)
    units = {node.name: frozenset({node.name}) for node in task.selection.candidates}
    units |= {group.name: frozenset(group.members) for group in task.groups}
    questions: dict[_Key, Question] = {_ALL: everything}
    for name, members in units.items():
        if task.direction.has_solo:
            questions["solo", name] = members
        if task.direction.has_leave_one_out:
            questions["without", name] = everything - members
    return questions


def _report(
    task: Task,
    context: Context,
    scores: Mapping[_Key, Distances],
    macs: Mapping[str, int],
    timing: _Timing,
) -> Sensitivity:
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelRef.of(task.prepared.id),
        scheme=task.scheme,
        run=_run(task, context, timing),
        metric=task.metric,
        outputs=task.scored.outputs,
        baseline=Baseline(all_quantized=Score.of(scores[_ALL])),
        nodes=_node_scores(task, scores, macs),
        groups=tuple(
            GroupScore(
                name=group.name,
                members=group.members,
                solo=_solo(scores, group.name),
                leave_one_out=_without(scores, group.name),
            )
            for group in task.groups
        ),
        keep=tuple(
            KeptNode(name=k.name, op_type=task.selection.op_types[k.name], reason=k.reason)
            for k in task.selection.kept
        ),
        renamed=task.prepared.renamed,
    )


def _node_scores(
    task: Task, scores: Mapping[_Key, Distances], macs: Mapping[str, int]
) -> tuple[NodeScore, ...]:
    nodes = task.selection.candidates
    group_of = {member: group.name for group in task.groups for member in group.members}
    pairs = [(_solo(scores, node.name), _without(scores, node.name)) for node in nodes]
    order = ranks([badness(solo, without, task.metric) for solo, without in pairs])
    return tuple(
        NodeScore(
            name=node.name,
            op_type=node.op_type,
            scope=node.scope,
            group=group_of.get(node.name),
            params=node.weight.params if node.weight else 0,
            macs=macs[node.name],
            rank=rank,
            solo=solo,
            leave_one_out=without,
        )
        for node, rank, (solo, without) in zip(nodes, order, pairs, strict=True)
    )


def _solo(scores: Mapping[_Key, Distances], name: str) -> Score | None:
    found = scores.get(("solo", name))
    return None if found is None else Score.of(found)


def _without(scores: Mapping[_Key, Distances], name: str) -> Score | None:
    found = scores.get(("without", name))
    return None if found is None else Score.of(found, gain=scores[_ALL].mse - found.mse)


def _run(task: Task, context: Context, timing: _Timing) -> Run:
    return Run(
        qgraph=context.version,
        engine=Engine.SWITCH,
        direction=task.direction,
        provider=task.provider,
        device=describe_device(task.provider),
        samples=len(task.feeds),
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
        complete=True,
    )

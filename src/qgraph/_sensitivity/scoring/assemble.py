"""From answers to `sensitivity.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph._graph.errors import InputError
from qgraph._graph.run.provider import Provider, describe_device
from qgraph._quantize.companions import find_companions
from qgraph._quantize.ranges import ModelRef
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.explain.warnings import warnings_of
from qgraph._sensitivity.report import (
    Baseline,
    Cause,
    Companion,
    Direction,
    Engine,
    GroupScore,
    KeptNode,
    MemoryUse,
    NodeScore,
    Run,
    Sensitivity,
)
from qgraph._sensitivity.scoring.job import Context, Task
from qgraph._sensitivity.scoring.loop import Scores
from qgraph._sensitivity.scoring.score_table import Answers

_FAILED = "quantizing it, or its group, makes the outputs NaN, infinite or of another shape"


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of nodes beside their scores: node name → MACs, and → why it is sensitive."""

    macs: Mapping[str, int]
    causes: Mapping[str, Cause]


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds; `forward`: of one pass over the samples; `ideal`: E*, in forwards."""

    started: str
    seconds: float
    setup: float
    scoring: float
    forward: float
    ideal: float


def assemble(
    task: Task,
    context: Context,
    answers: Answers,
    facts: Facts,
    timing: Timing,
    means: Means,
) -> Sensitivity:
    """Return the report of what `answers` say.

    Raises:
        InputError: no node is left that has a score.
    """
    failed = _failed(task, answers)
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelRef.of(task.prepared.id),
        scheme=task.scheme,
        run=_run(task, context, timing, answers.scores, means),
        metric=task.metric,
        outputs=task.scored.outputs,
        baseline=_baseline(answers),
        nodes=_node_scores(task, answers, facts, failed),
        groups=tuple(
            GroupScore(
                name=group.name,
                members=group.members,
                solo=answers.solo(group.name),
                leave_one_out=answers.without(group.name),
                samples=answers.samples_of(group.name),
            )
            for group in task.groups
            if not set(group.members) & failed
        ),
        keep=tuple(
            KeptNode(name=k.name, op_type=task.selection.op_types[k.name], reason=k.reason)
            for k in task.selection.kept
        ),
        unscored=tuple(
            KeptNode(name=name, op_type=task.selection.op_types[name], reason=_FAILED)
            for name in task.selection.op_types
            if name in failed
        ),
        companions=tuple(
            Companion(name=item.node.name, beside=item.beside)
            for item in find_companions(task.prepared.model, task.selection.candidates)
            if task.scheme.name is not SchemeName.INC_CPU
        ),
        renamed=task.prepared.renamed,
    )


def _baseline(answers: Answers) -> Baseline | None:
    found = answers.all_quantized()
    return None if found is None else Baseline(all_quantized=found)


def _failed(task: Task, answers: Answers) -> set[str]:
    """Return the nodes that have no score, alone or because their group has none."""
    names = [node.name for node in task.selection.candidates]
    failed = {name for name in names if answers.failed(name)}
    for group in task.groups:
        if answers.failed(group.name) or failed & set(group.members):
            failed |= set(group.members)
    if len(failed) == len(names):
        raise InputError(
            "quantizing any of the candidates makes the outputs NaN, infinite or of another shape",
            where=", ".join(task.scored.outputs),
            hint="Measure elsewhere with --outputs, or check the data.",
        )
    return failed


def _node_scores(
    task: Task, answers: Answers, facts: Facts, failed: set[str]
) -> tuple[NodeScore, ...]:
    nodes = [node for node in task.selection.candidates if node.name not in failed]
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
            macs=facts.macs[node.name],
            rank=order[index],
            solo=answers.solo(node.name),
            leave_one_out=answers.without(node.name),
            samples=answers.samples_of(node.name),
            stability=spread[index] if spread else None,
            screen=answers.screen(node.name),
            cause=facts.causes.get(node.name),
        )
        for index, node in enumerate(nodes)
    )


@dataclass(frozen=True, slots=True)
class Who:
    """Who was asked, which way, where."""

    engine: Engine
    direction: Direction
    provider: Provider


@dataclass(frozen=True, slots=True)
class Means:
    """What the work took beside time; see `report.Run`."""

    memory: MemoryUse | None = None
    computed_in: str | None = None
    warnings: tuple[str, ...] = ()


def _run(task: Task, context: Context, timing: Timing, scores: Scores, means: Means) -> Run:
    engine = task.engine if scores.samples else Engine.SCREEN
    who = Who(engine, task.direction, task.provider)
    count = len(scores.samples)
    run = run_block(context, who, timing, means, samples=count, complete=scores.complete)
    found = warnings_of(scores, task.prepared.model, task.scored.outputs) + means.warnings
    return run.model_copy(update={"warnings": found or None})


def run_block(
    context: Context,
    who: Who,
    timing: Timing,
    means: Means | None = None,
    *,
    samples: int,
    complete: bool,
) -> Run:
    """Return the `run` block of any engine's report."""
    means = means or Means()
    return Run(
        qgraph=context.version,
        engine=who.engine,
        direction=who.direction,
        provider=who.provider,
        device=describe_device(who.provider),
        samples=samples,
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
        memory=means.memory,
        computed_in=means.computed_in,
        complete=complete,
    )

"""From answers to `sensitivity.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graph.runtime.session import describe_device
from quantize.ranges import ModelRef
from sensitivity.answers import Answers
from sensitivity.report import (
    Baseline,
    Engine,
    GroupScore,
    KeptNode,
    NodeScore,
    Run,
    Sensitivity,
)
from sensitivity.scoring import Scores
from sensitivity.task import Context, Task


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
    macs: Mapping[str, int],
    timing: Timing,
) -> Sensitivity:
    """Return the report of what `answers` say."""
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelRef.of(task.prepared.id),
        scheme=task.scheme,
        run=_run(task, context, timing, answers.scores),
        metric=task.metric,
        outputs=task.scored.outputs,
        baseline=_baseline(answers),
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


def _baseline(answers: Answers) -> Baseline | None:
    found = answers.all_quantized()
    return None if found is None else Baseline(all_quantized=found)


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
            screen=answers.screen(node.name),
        )
        for index, node in enumerate(nodes)
    )


def _run(task: Task, context: Context, timing: Timing, scores: Scores) -> Run:
    return Run(
        qgraph=context.version,
        engine=task.engine if scores.samples else Engine.SCREEN,
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

"""From what an engine found to `sensitivity.json`: one way, whoever the engine is."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph._graph.run.provider import describe_device
from qgraph._graph.run.runtime import Runtime
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.searched import SearchedRanges
from qgraph._sensitivity.engines.protocol import NodeScores
from qgraph._sensitivity.ranking.order import ranks
from qgraph._sensitivity.report import (
    Baseline,
    GroupScore,
    KeptNode,
    NodeScore,
    OtherScheme,
    ResidualAdd,
    Run,
    ScreenScore,
    Sensitivity,
)
from qgraph._sensitivity.scoring.work import Work


@dataclass(frozen=True, slots=True)
class Clock:
    """`started`: when, in UTC; `seconds`: what passed since."""

    started: str
    seconds: float


def assemble(
    work: Work, engine: str, found: NodeScores, runtime: Runtime, clock: Clock
) -> Sensitivity:
    """Return the report of what the engine called `engine` found."""
    everything, op_types = found.table.everything, work.selection.op_types
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=work.prepared.id,
        scheme=work.scheme,
        searched=_searched(work, found.engine or engine),
        run=_run(work, found.engine or engine, found, runtime, clock),
        metric=work.metric,
        outputs=work.scored.outputs,
        baseline=None if everything is None else Baseline(all_quantized=everything),
        nodes=_nodes(work, found),
        groups=tuple(
            GroupScore(
                name=group.name,
                members=group.members,
                solo=found.table.solo.get(group.name),
                leave_one_out=found.table.without.get(group.name),
            )
            for group in work.groups
            if not set(group.members) & found.unscored.keys()
        ),
        keep=tuple(
            KeptNode(
                name=keep.name,
                op_type=op_types[keep.name],
                reason=keep.reason,
                macs=found.macs.get(keep.name),
            )
            for keep in work.selection.kept
        ),
        unscored=tuple(
            KeptNode(
                name=name,
                op_type=op_types[name],
                reason=found.unscored[name],
                macs=found.macs.get(name),
            )
            for name in work.names
            if name in found.unscored
        ),
        companions=tuple(
            ResidualAdd(name=item.node.name, beside=item.beside) for item in found.companions
        ),
        renamed=work.prepared.renamed,
        interactions=found.interactions,
        schemes=_other_schemes(work, found),
        mixed=found.mixed,
        inc=found.inc,
    )


def _searched(work: Work, engine: str) -> SearchedRanges | None:
    """Return what a search for ranges came to, or why there was none although nobody forwent it."""
    if work.ranges is not None and work.ranges.searched is not None:
        return work.ranges.searched
    if work.scheme != work.scheme.plain():
        return None
    if work.ranges is None:
        return SearchedRanges(why_not=f"{engine} calibrates by itself")
    if work.formats:
        return SearchedRanges(why_not="what is best for one of several --schemes is not for all")
    return None


def _nodes(work: Work, found: NodeScores) -> tuple[NodeScore, ...]:
    nodes = [node for node in work.selection.candidates if node.name not in found.unscored]
    names = [node.name for node in nodes]
    group_of = {member: group.name for group in work.groups for member in group.members}
    harms = [found.screened[name] for name in names] if found.screened else None
    order = ranks(found.table.harms(names, work.metric) if harms is None else harms)
    return tuple(
        NodeScore(
            name=node.name,
            op_type=node.op_type,
            scope=node.scope,
            group=group_of.get(node.name),
            params=node.weight.params if node.weight else 0,
            macs=found.macs[node.name],
            rank=rank,
            solo=found.table.solo.get(node.name),
            leave_one_out=found.table.without.get(node.name),
            stability=found.stability.get(node.name),
            screen=_screen(found, node.name),
            cause=found.causes.get(node.name),
            gauss_newton=found.gauss_newton.get(node.name),
            schemes={
                name: table.solo[node.name]
                for name, table in found.formats.items()
                if node.name in table.solo
            }
            or None,
        )
        for node, rank in zip(nodes, order, strict=True)
    )


def _other_schemes(work: Work, found: NodeScores) -> tuple[OtherScheme, ...] | None:
    tables = found.formats
    made = [
        OtherScheme(name=i.name, scheme=i.scheme, all_quantized=tables[i.name].everything)
        for i in work.formats
        if i.name in tables
    ]
    return tuple(made) or None


def _screen(found: NodeScores, name: str) -> ScreenScore | None:
    seen = found.screened.get(name)
    return None if seen is None else ScreenScore(noise_to_signal=seen)


def _run(work: Work, engine: str, found: NodeScores, runtime: Runtime, clock: Clock) -> Run:
    timing = found.timing
    return Run(
        qgraph=VERSION,
        engine=engine,
        direction=work.direction,
        provider=runtime.provider,
        device=describe_device(runtime.provider),
        samples=found.samples,
        seed=work.source.seed,
        data=work.source.description,
        synthetic=work.source.synthetic,
        more_samples=work.source.more or None,
        unseen=(work.is_unseen and engine != "screen") or None,
        packages=packages(),
        started=clock.started,
        ranges_seconds=work.ranges_seconds,
        seconds=clock.seconds,
        setup_seconds=timing.setup,
        scoring_seconds=timing.scoring,
        forward_seconds=timing.forward,
        forward_equivalents=timing.scoring / timing.forward,
        ideal_forward_equivalents=timing.ideal,
        memory=found.memory,
        computed_in=found.computed_in,
        warnings=(*work.source.notes, *work.warnings, *found.warnings) or None,
        estimate=found.estimate,
        complete=found.complete,
    )

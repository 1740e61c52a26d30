"""From what the journal of an `inc` run holds to the report every engine writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.session import Provider
from qgraph._quantize.inc import Score as IncUnitScore
from qgraph._quantize.inc import Settings, Unit, UnitKind
from qgraph._quantize.ranges import ModelRef
from qgraph._quantize.scheme import Scheme
from qgraph._quantize.selection import Selection
from qgraph._sensitivity.engines.questions import Scored
from qgraph._sensitivity.ranking.order import badness, ranks
from qgraph._sensitivity.report import (
    Baseline,
    Direction,
    Engine,
    IncScore,
    IncSettings,
    KeptNode,
    Metric,
    NodeScore,
    Run,
    Score,
    Sensitivity,
)
from qgraph._sensitivity.scoring.assemble import Timing, Who, run_block
from qgraph._sensitivity.scoring.job import Context

SETTINGS = "settings"
"""Key under which the journal holds what INC was told."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The question. `nodes`: candidates INC quantizes; `units`: the models it makes, the one with
    all of them first; `limited`: some nodes were left out for --max-nodes; `reasons`: candidate →
    why it has no score; `ideal`: E*, in forwards.
    """

    prepared: PreparedModel
    selection: Selection
    scored: Scored
    scheme: Scheme
    direction: Direction
    metric: Metric
    samples: int
    batches: int
    nodes: tuple[QuantizableNode, ...]
    units: tuple[Unit, ...]
    limited: bool
    reasons: Mapping[str, str]
    macs: Mapping[str, int]
    ideal: float


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall seconds of this run; `forward`: one pass of the float model over the scored samples."""

    started: str
    total: float
    setup: float
    forward: float


def build_report(
    asked: Asked, context: Context, entries: Mapping[str, Any], seconds: Seconds
) -> Sensitivity:
    """Return the report of the units that `entries` holds."""
    found = {unit.key: _read(entries[unit.key]) for unit in asked.units if unit.key in entries}
    settings = Settings.model_validate_json(json.dumps(entries[SETTINGS]))
    everything = found[Unit(kind=UnitKind.ALL).key]
    unscored = _unscored(asked, found, settings, everything)
    complete = len(found) == len(asked.units) and not asked.limited
    return Sensitivity(
        schema=Sensitivity.SCHEMA,
        model=ModelRef.of(asked.prepared.id),
        scheme=asked.scheme,
        run=_run(asked, context, found, seconds, complete=complete),
        metric=asked.metric,
        outputs=asked.scored.outputs,
        baseline=Baseline(all_quantized=_score(everything)),
        nodes=_nodes(asked, found, everything, unscored),
        keep=tuple(
            KeptNode(name=k.name, op_type=asked.selection.op_types[k.name], reason=k.reason)
            for k in asked.selection.kept
        ),
        unscored=tuple(
            KeptNode(name=n.name, op_type=n.op_type, reason=unscored[n.name])
            for n in asked.selection.candidates
            if n.name in unscored
        ),
        renamed=asked.prepared.renamed,
        inc=IncSettings(
            version=settings.version,
            adaptor=settings.adaptor,
            weights=settings.weights,
            activations=settings.activations,
            calibration_samples=asked.samples,
            confidence_batches=asked.batches,
        ),
    )


def _read(payload: Any) -> IncUnitScore:
    return IncUnitScore.model_validate_json(json.dumps(payload))


_Found = Mapping[str, IncUnitScore]


def _unscored(
    asked: Asked, found: _Found, settings: Settings, everything: IncUnitScore
) -> dict[str, str]:
    """Return candidate → why it has no score; what INC left float is no score of 0."""
    reasons = dict(asked.reasons)
    for node in asked.nodes:
        units = [unit for unit in asked.units if unit.node == node.name]
        solo = found.get(Unit(kind=UnitKind.SOLO, node=node.name).key)
        if node.name in settings.not_offered:
            reasons[node.name] = f"INC's adaptor does not quantize a {node.op_type}"
        elif node.name in everything.left_float:
            reasons[node.name] = "INC leaves it float although asked"
        elif solo is not None and solo.left_float:
            reasons[node.name] = "INC leaves it float when it is the only one quantized"
        elif any(unit.key not in found for unit in units):
            reasons.setdefault(node.name, "the run was cut short before it")
    return reasons


def _nodes(
    asked: Asked, found: _Found, everything: IncUnitScore, unscored: Mapping[str, str]
) -> tuple[NodeScore, ...]:
    nodes = [node for node in asked.nodes if node.name not in unscored]
    pairs = [
        (_direction(found, UnitKind.SOLO, node), _direction(found, UnitKind.WITHOUT, node))
        for node in nodes
    ]
    scores = [
        (_score(solo) if solo else None, _score(without, everything) if without else None)
        for solo, without in pairs
    ]
    order = ranks([badness(solo, without, asked.metric) for solo, without in scores])
    return tuple(
        NodeScore(
            name=node.name,
            op_type=node.op_type,
            scope=node.scope,
            params=node.weight.params if node.weight else 0,
            macs=asked.macs[node.name],
            rank=rank,
            solo=solo,
            leave_one_out=without,
        )
        for node, rank, (solo, without) in zip(nodes, order, scores, strict=True)
    )


def _direction(found: _Found, kind: UnitKind, node: QuantizableNode) -> IncUnitScore | None:
    return found.get(Unit(kind=kind, node=node.name).key)


def _score(score: IncUnitScore, everything: IncUnitScore | None = None) -> Score:
    """Return our distances with INC's own beside them; gains where `everything` is given."""
    inc = None
    if score.inc_mse is not None:
        total = everything.inc_mse if everything is not None else None
        inc = IncScore(mse=score.inc_mse, gain=None if total is None else total - score.inc_mse)
    gain = None if everything is None else everything.mse - score.mse
    return Score.of(score.distances, gain=gain).model_copy(update={"inc": inc})


def _run(asked: Asked, context: Context, found: _Found, seconds: Seconds, *, complete: bool) -> Run:
    # units of earlier runs count too: what was resumed cost their time
    scoring = sum(score.seconds for score in found.values())
    timing = Timing(
        seconds.started, seconds.total, seconds.setup, scoring, seconds.forward, asked.ideal
    )
    who = Who(Engine.INC, asked.direction, Provider.CPU)
    return run_block(context, who, timing, samples=asked.samples, complete=complete)

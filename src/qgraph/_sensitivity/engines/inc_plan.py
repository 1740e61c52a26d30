"""What the engine `inc` is asked for: its options, the nodes INC quantizes, the models it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.errors import InputError
from qgraph._graph.flags import Flag
from qgraph._graph.run.session import Provider
from qgraph._quantize.inc import IncUnit, UnitKind, eligible
from qgraph._sensitivity.explain.cost import ideal_forwards, measure_macs
from qgraph._sensitivity.report import Direction
from qgraph._sensitivity.scoring.work import EngineOptions, Work

_Count = Annotated[int, Field(ge=1)]


class IncOptions(EngineOptions):
    """`max_nodes`: only the first so many candidates, in graph order. `confidence_batches`: how
    many samples are scored, None for all; all calibrate. `as_written`: INC's models run without
    integer kernels, to see how much of a score is theirs.
    """

    max_nodes: Annotated[_Count | None, Flag("inc: score only the first N candidates.")] = None
    confidence_batches: Annotated[
        _Count | None, Flag("inc: score on the first N samples; calibrate on all.  [default: all]")
    ] = None
    as_written: bool = False


def options_of(work: Work) -> IncOptions:
    """Return the engine's own options, or their defaults."""
    return work.options if isinstance(work.options, IncOptions) else IncOptions()


@dataclass(frozen=True, slots=True, eq=False)
class IncPlan:
    """`nodes`: candidates INC quantizes; `units`: the models it makes, the one with all of them
    first; `limited`: some nodes were left out for --max-nodes; `reasons`: candidate → why it has no
    score; `ideal`: E*, in forwards.
    """

    nodes: tuple[QuantizableNode, ...]
    units: tuple[IncUnit, ...]
    limited: bool
    reasons: Mapping[str, str]
    macs: Mapping[str, int]
    ideal: float


def plan_of(work: Work) -> IncPlan:
    """Return which candidates INC is asked about, and the units of work that takes."""
    where, most = str(work.prepared.path), options_of(work).max_nodes
    nodes, refusals = eligible(work.prepared.model, work.selection.candidates, where)
    if not nodes:
        raise InputError(
            "the model has no node that Intel Neural Compressor can score", where=where
        )
    chosen = nodes[:most]
    macs = measure_macs(work.prepared, work.feeds[0], Provider.CPU)
    reasons = {item.name: item.reason for item in refusals}
    for node in nodes[len(chosen) :]:
        reasons[node.name] = f"beyond --max-nodes {most}"
    ideal = ideal_forwards(work.prepared.model, macs, chosen)
    return IncPlan(
        nodes=tuple(nodes),
        units=_units(chosen, work.direction),
        limited=len(chosen) < len(nodes),
        reasons=reasons,
        macs=macs,
        ideal=ideal * (2 if work.direction is Direction.BOTH else 1),
    )


def _units(nodes: Sequence[QuantizableNode], direction: Direction) -> tuple[IncUnit, ...]:
    """Return the models INC has to make: all quantized first, then one or two per node."""
    kinds = [UnitKind.SOLO] * direction.has_solo + [UnitKind.WITHOUT] * direction.has_leave_one_out
    singles = (IncUnit(kind=kind, node=node.name) for kind in kinds for node in nodes)
    return (IncUnit(kind=UnitKind.ALL), *singles)

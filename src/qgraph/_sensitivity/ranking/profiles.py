"""Cutting profiles from a ranking: quantize the nodes that hurt least, up to a share.

Units (single nodes, or fused groups) enter in order of the damage they add for what they bring:
that of the metric the report ranks by, divided by the unit's weight in the share that is cut
(nodes, MACs or parameters). What a unit adds to those before it is known where the report holds
interactions. Else it is what it does alone, which gives the least at every share under the
assumption that damage adds up. A member that does most of its group's damage is a unit of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import numpy as np

from qgraph._graph.edit.nodes import ROTATION
from qgraph._graph.errors import UsageError
from qgraph._graph.tensors import Array
from qgraph._metrics import metric
from qgraph._quantize.profiles import Fraction, KeepPart, Predicted, Profile, Profiles
from qgraph._sensitivity.ranking.interactions import NO_WEIGHT, gram_of
from qgraph._sensitivity.ranking.order import harm
from qgraph._sensitivity.report import GroupScore, NodeScore, Sensitivity

DEFAULT_CUTS: Mapping[str, float] = {"A": 0.15, "B": 0.50, "C": 0.80, "D": 1.0}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OF_ERROR = dict.fromkeys(("sqnr_db", "cosine"), "mse")
"""Metrics that go by the squared error over all outputs."""
_TITLES = {
    "A": "minimal: only what hurts least",
    "B": "moderate",
    "C": "aggressive",
    "D": "max W8A8: every candidate",
}


class By(StrEnum):
    """What a cut counts: nodes, multiply-accumulates, or parameters."""

    NODES = "nodes"
    MACS = "macs"
    PARAMS = "params"


@dataclass(frozen=True, slots=True)
class Unit:
    """Nodes that enter a profile together; `harm`: the damage they add, `weight`: their
    count, MACs or parameters. `mse`: their joint solo MSE, where that was measured.
    """

    members: tuple[str, ...]
    harm: float
    weight: float
    mse: float = 0.0

    @property
    def harm_by_weight(self) -> float:
        """Return what units are ordered by: the damage for what the unit brings."""
        return self.harm / max(self.weight, NO_WEIGHT)


def cut_profiles(
    report: Sensitivity,
    source: str,
    cuts: Mapping[str, float] = DEFAULT_CUTS,
    by: By = By.MACS,
    top_k: int | None = None,
) -> Profiles:
    """Return one profile per cut, and one that keeps the `top_k` most sensitive nodes float.

    Raises:
        UsageError: a cut is not in (0, 1] or its name is no file name, `top_k` is not below the
            number of candidates, or nothing has a weight in what is counted.
    """
    _check(report, cuts, top_k)
    units = units_of(report, by)
    if not sum(unit.weight for unit in units):
        raise UsageError(f"--by {by}: the candidates have no {by} at all; cut by nodes")
    profiles = [
        profile_of(report, name, _TITLES.get(name, f"{share:.0%} of {by}"), prefix(units, share))
        for name, share in cuts.items()
    ]
    if top_k is not None:
        if f"keep{top_k}" in cuts:
            raise UsageError(f"--cut keep{top_k} has the name that --top-k {top_k} gives")
        chosen = [unit for unit in units if not _top(report, top_k) & set(unit.members)]
        title = f"the {top_k} most sensitive stay float"
        profiles.append(profile_of(report, f"keep{top_k}", title, chosen))
    return Profiles(
        schema=Profiles.SCHEMA,
        model=report.model,
        scheme=report.scheme,
        source=source,
        profiles=tuple(profiles),
    )


def _check(report: Sensitivity, cuts: Mapping[str, float], top_k: int | None) -> None:
    for name, share in cuts.items():
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"--cut {name}={share}: a profile's name becomes a file name",
                hint="At most 100 letters, digits, '.', '_' and '-', the first a letter or digit.",
            )
        if not 0 < share <= 1:
            raise UsageError(f"--cut {name}={share} is not a share above 0 and up to 1")
    if top_k is not None and not 0 <= top_k < len(report.nodes):
        raise UsageError(
            f"--top-k {top_k} is not between 0 and {len(report.nodes) - 1}: there are"
            f" {len(report.nodes)} candidates"
        )


def units_of(report: Sensitivity, by: By) -> list[Unit]:
    """Return the units, the least harmful for what they bring first."""
    nodes = {node.name: node for node in report.nodes}
    grouped = {member for group in report.groups for member in group.members}
    units = [_unit(report, [node], node, by) for node in report.nodes if node.name not in grouped]
    for group in report.groups:
        members = [nodes[name] for name in group.members]
        single = [_unit(report, [node], node, by) for node in members]
        units += whole_or_apart(_unit(report, members, group, by), single)
    gram = gram_of(report, report.metric)
    if gram is not None and gram.tells_pairs_apart:
        order = gram.order([unit.members for unit in units], [unit.weight for unit in units])
        return [units[index] for index in order]
    place = {node.name: index for index, node in enumerate(report.nodes)}
    return sorted(units, key=lambda unit: (unit.harm_by_weight, place[unit.members[0]]))


def whole_or_apart(whole: Unit, members: Sequence[Unit]) -> list[Unit]:
    """Return a group's unit; or, where one member does most of the damage and brings less than half
    of what is cut, the others as one unit, and that member. So v_proj, of which the error reaches
    the output, does not keep q_proj and k_proj float, of which it only moves attention's weights.
    """
    worst = max(members, key=lambda unit: unit.harm)
    harm, weight = sum(unit.harm for unit in members), sum(unit.weight for unit in members)
    # without any harm, as leaving a node out may measure it, nobody does most of it
    if 2 * worst.harm <= max(0.0, harm) or 2 * worst.weight >= weight:
        return [whole]
    others = [unit for unit in members if unit is not worst]
    names = tuple(name for unit in others for name in unit.members)
    mse = sum(unit.mse for unit in others)
    return [Unit(names, harm - worst.harm, weight - worst.weight, mse), worst]


def pairs_of(report: Sensitivity, units: Sequence[Unit], key: str) -> Array:
    """Return the damage that units do together, [units, units]: the sum over a set's rows and
    columns is that of the set. By the metric `key` or the squared error it is made of, where the
    report has that, else by what ranks; without interactions, as if damages added up.
    """
    gram = gram_of(report, _OF_ERROR.get(key, key)) or gram_of(report, report.metric)
    if gram is None:
        return np.diag([max(unit.harm, 0.0) for unit in units])
    return gram.between([unit.members for unit in units])


def _unit(
    report: Sensitivity, nodes: Sequence[NodeScore], scored: NodeScore | GroupScore, by: By
) -> Unit:
    names = tuple(node.name for node in nodes)
    mse = scored.solo.mse if scored.solo is not None else 0.0
    return Unit(names, _harm(report, nodes, scored), _weight(nodes, by), mse)


def _harm(report: Sensitivity, nodes: Sequence[NodeScore], scored: NodeScore | GroupScore) -> float:
    """Return the damage a unit adds, by the report's metric: alone where measured, else what
    leaving it out removes, else what the screen says of its members.
    """
    if scored.solo is None and scored.leave_one_out is None:
        return sum(node.screen.noise_to_signal for node in nodes if node.screen is not None)
    everything = report.baseline.all_quantized if report.baseline is not None else None
    return harm(scored.solo, scored.leave_one_out, everything, report.metric)


def _weight(nodes: Sequence[NodeScore], by: By) -> float:
    match by:
        case By.NODES:
            return float(len(nodes))
        case By.MACS:
            return float(sum(node.macs for node in nodes))
        case By.PARAMS:
            return float(sum(node.params for node in nodes))


def prefix(units: Sequence[Unit], share: float) -> list[Unit]:
    """Return the first units whose total comes nearest to `share`, at least one; of several that
    come as near the fewest, so that what has no weight is in only with all.
    """
    if share == 1:
        return list(units)
    reached = list(accumulate(unit.weight for unit in units))
    wanted = share * reached[-1]
    best = min(range(len(units)), key=lambda at: abs(reached[at] - wanted))
    return list(units[: best + 1])


def _top(report: Sensitivity, count: int) -> set[str]:
    return {node.name for node in report.nodes if node.rank <= count}


def profile_of(report: Sensitivity, name: str, title: str, units: Sequence[Unit]) -> Profile:
    """Return the profile that quantizes exactly `units`."""
    chosen = {member for unit in units for member in unit.members}
    parted = {node.group for node in report.nodes if node.name in chosen}
    # a profile is of the model as it was given: other schemes, and INC, do not rotate it
    others = [node for node in (*report.unscored, *report.keep) if node.reason != ROTATION]
    reasons = {
        node.name: _reason(report, node, with_group=node.group not in parted)
        for node in report.nodes
        if node.name not in chosen
    } | {node.name: node.reason for node in others}
    macs: dict[str, int | None] = {node.name: node.macs for node in report.nodes}
    macs |= {node.name: node.macs for node in others}
    known = [count for count in macs.values() if count is not None]
    total = sum(known) if len(known) == len(macs) else 0
    kept = [
        KeepPart(name=node, reason=reason, macs_share=(macs[node] or 0) / total if total else None)
        for node, reason in reasons.items()
    ]
    return Profile(
        name=name,
        title=title,
        quantize=tuple(node.name for node in report.nodes if node.name in chosen),
        keep=tuple(kept),
        companions=tuple(item.name for item in report.companions if item.beside in chosen),
        fraction=_fraction(report, chosen),
        predicted=_predicted(report, units),
    )


def _predicted(report: Sensitivity, units: Sequence[Unit]) -> Predicted | None:
    """Return the error of the set where interactions are known, else the sum of single errors."""
    gram = gram_of(report, "mse")
    if gram is not None:
        chosen = [name for unit in units for name in unit.members]
        return Predicted(mse=gram.damage(chosen), interactions=True)
    if any(node.solo is None for node in report.nodes):
        return None
    return Predicted(mse=sum(unit.mse for unit in units))


def _reason(report: Sensitivity, node: NodeScore, *, with_group: bool) -> str:
    score, known = node.solo or node.leave_one_out, metric(report.metric)
    how = "quantized alone" if node.solo else "left out alone"
    value = score.figures.get(known.key) if score else None
    figure = f", {known.label} {value:.3g} {how}" if value is not None else ""
    joined = f" with {node.group}" if node.group and with_group else ""
    return f"sensitivity rank {node.rank} of {len(report.nodes)}{figure}{joined}"


def _fraction(report: Sensitivity, chosen: set[str]) -> Fraction:
    inside = [node for node in report.nodes if node.name in chosen]
    shares = {by: _weight(inside, by) / max(_weight(report.nodes, by), 1.0) for by in By}
    return Fraction(nodes=shares[By.NODES], macs=shares[By.MACS], params=shares[By.PARAMS])

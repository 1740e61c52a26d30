"""Nodes in one of two formats: what a report says of them so, and what profiles hold of it.

A profile has each node in the format that it is best off in. Alone, that is: where all of them
in one format do less at that share, they are in that one.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from qgraph._graph.errors import UsageError
from qgraph._quantize.profiles import NamedScheme, Profile, Profiles
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.beside_scores import Interactions
from qgraph._sensitivity.ranking.profiles import By, at_least, damage_of, profile_of, units_of
from qgraph._sensitivity.report import Score, Sensitivity

_SUMMED = ("mse", "noise_to_signal", "kl")


@dataclass(frozen=True, slots=True)
class Mixing:
    """`report`: what is known of nodes in their `formats`, node → its name; `others`: the schemes
    of those that are not the report's own.
    """

    report: Sensitivity
    formats: Mapping[str, str]
    others: tuple[NamedScheme, ...]

    def apart(self) -> dict[str, Scheme]:
        """Return node → its scheme where that is not the report's own."""
        known = {item.name: item.scheme for item in self.others}
        return {name: known[kind] for name, kind in self.formats.items() if kind in known}

    def on(self, profile: Profile) -> Profile:
        """Return a profile with the formats of what it quantizes."""
        return profile.model_copy(
            update={"formats": {name: self.formats[name] for name in profile.quantize}}
        )


def mixings_of(report: Sensitivity, names: Sequence[str]) -> tuple[Mixing, ...]:
    """Return every node in the format that it is best off in, of those named; then all in the
    first, and all that can be in the second, where that is something else.

    Raises:
        UsageError: the report knows of no such choice.
    """
    mixed = report.mixed
    if mixed is None:
        raise UsageError(
            "the report has no formats to choose from",
            where="--mix",
            hint=f"Score with --engine gradient --schemes {','.join(names)}; the second has ranges"
            " of extremes, as int8:minmax or fp8:minmax say.",
        )
    if set(names) != set(mixed.schemes):
        raise UsageError(
            f"found {','.join(names)}, expected {','.join(mixed.schemes)}, which the report knows",
            where="--mix",
        )
    known = [item for item in report.schemes or () if item.name in mixed.schemes]
    others = [NamedScheme(name=i.name, scheme=i.scheme) for i in known if i.scheme is not None]
    own = {node.name: mixed.schemes[0] for node in report.nodes}
    choices = [(mixed.formats, mixed.interactions)]
    if set(mixed.formats.values()) != {mixed.schemes[0]}:
        choices.append((own, report.interactions))
    if mixed.second is not None:
        choices.append((mixed.second.formats, mixed.second.interactions))
    first = _measured(mixed.interactions)
    return tuple(
        Mixing(_in_formats(report, own, formats, found), formats, tuple(others))
        for formats, found in choices
        if _measured(found) == first  # what is estimated is not held against what was measured
    )


def _measured(found: Sequence[Interactions]) -> bool:
    return any(item.measured for item in found)


def least_harmful(
    mixings: Sequence[Mixing], cut: Profiles, shares: Container[str], by: By
) -> tuple[Profiles, dict[str, Mixing]]:
    """Return the profiles, which were cut from the first of `mixings`, each of what does the least
    damage, with the formats of its nodes; and name → what it is of. Those in `shares` quantize at
    least as much as before, the others the same nodes.
    """
    found, used = [], {}
    units = [units_of(item.report, by) for item in mixings]
    for profile in cut.profiles:
        names, choices = set(profile.quantize), [(mixings[0], profile)]
        weight = sum(unit.weight for unit in units[0] if names.issuperset(unit.members))
        for item, ordered in zip(mixings[1:], units[1:], strict=True):
            same = [unit for unit in ordered if names.issuperset(unit.members)]
            inside = at_least(ordered, weight) if profile.name in shares else same
            choices.append((item, profile_of(item.report, profile.name, profile.title, inside)))
        best, made = min(choices, key=_damage)
        found.append(best.on(made))
        used[profile.name] = best
    update = {"profiles": tuple(found), "schemes": mixings[0].others}
    return cut.model_copy(update=update), used


def _damage(choice: tuple[Mixing, Profile]) -> float:
    mixing, profile = choice
    found = damage_of(mixing.report, profile.quantize)
    return math.inf if found is None else found


def _in_formats(
    report: Sensitivity,
    own: Mapping[str, str],
    formats: Mapping[str, str],
    interactions: tuple[Interactions, ...],
) -> Sensitivity:
    """Return the report with the scores and interactions of nodes in their formats."""
    scores = {
        node.name: (node.schemes or {}).get(formats[node.name], node.solo) for node in report.nodes
    }
    groups = tuple(
        group.model_copy(update={"solo": _added([scores[name] for name in group.members])})
        if group.solo is not None and any(formats[name] != own[name] for name in group.members)
        else group
        for group in report.groups
    )
    nodes = tuple(n.model_copy(update={"solo": scores[n.name]}) for n in report.nodes)
    update = {"nodes": nodes, "groups": groups, "interactions": interactions}
    return report.model_copy(update=update)


def _added(scores: Sequence[Score | None]) -> Score | None:
    """Return the score of nodes together, as if their errors did not correlate."""
    rows = [score.figures for score in scores if score is not None]
    if len(rows) < len(scores):
        return None
    found: dict[str, float | None] = {}
    for key in _SUMMED:
        values = [row[key] for row in rows]
        found[key] = None if None in values else math.fsum(v for v in values if v is not None)
    levels = [row["sqnr_db"] for row in rows]
    power = math.fsum(10 ** (-level / 10) for level in levels if level is not None)
    found["sqnr_db"] = -10 * math.log10(power) if power else None
    return Score.of(found)

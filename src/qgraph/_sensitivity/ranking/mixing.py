"""Nodes in one of two formats: what a report says of them so, and what profiles hold of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from qgraph._graph.errors import UsageError
from qgraph._quantize.profiles import NamedScheme, Profiles
from qgraph._quantize.scheme import Scheme
from qgraph._sensitivity.beside_scores import MixedFormats
from qgraph._sensitivity.report import Score, Sensitivity

_SUMMED = ("mse", "noise_to_signal", "kl")


@dataclass(frozen=True, slots=True)
class Mixing:
    """`formats`: node → the name of its format; `others`: the schemes of those that are not the
    report's own.
    """

    formats: Mapping[str, str]
    others: tuple[NamedScheme, ...]

    def apart(self) -> dict[str, Scheme]:
        """Return node → its scheme where that is not the report's own."""
        known = {item.name: item.scheme for item in self.others}
        return {name: known[kind] for name, kind in self.formats.items() if kind in known}

    def applied(self, profiles: Profiles) -> Profiles:
        """Return profiles with the formats of what they quantize."""
        made = tuple(
            item.model_copy(update={"formats": {n: self.formats[n] for n in item.quantize}})
            for item in profiles.profiles
        )
        return profiles.model_copy(update={"profiles": made, "schemes": self.others})


def mixing_of(report: Sensitivity, names: Sequence[str]) -> tuple[Sensitivity, Mixing]:
    """Return the report with every node in the format that it is best off in, of those named, and
    which that is.

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
    return _in_formats(report, mixed), Mixing(mixed.formats, tuple(others))


def _in_formats(report: Sensitivity, mixed: MixedFormats) -> Sensitivity:
    """Return the report with the scores and interactions of nodes in their formats."""
    scores = {
        node.name: (node.schemes or {}).get(mixed.formats[node.name], node.solo)
        for node in report.nodes
    }
    groups = tuple(
        group.model_copy(update={"solo": _added([scores[name] for name in group.members])})
        if group.solo is not None and _moved(group.members, mixed)
        else group
        for group in report.groups
    )
    nodes = tuple(n.model_copy(update={"solo": scores[n.name]}) for n in report.nodes)
    update = {"nodes": nodes, "groups": groups, "interactions": mixed.interactions}
    return report.model_copy(update=update)


def _moved(members: Collection[str], mixed: MixedFormats) -> bool:
    return any(mixed.formats[name] != mixed.schemes[0] for name in members)


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

"""The rows of the report page's tables of nodes: scored, and kept float."""

from __future__ import annotations

from dataclasses import dataclass

from qgraph._quantize.profiles import KeepPart, Profiles
from qgraph._report.locate import Placed, place
from qgraph._report.reported_run import ReportedRun
from qgraph._sensitivity.ranking.node_figures import NodeFigures, node_figures
from qgraph._sensitivity.report import Sensitivity


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A row of the table of nodes. `profiles`: those that quantize it."""

    placed: Placed
    figures: NodeFigures
    profiles: str


def kept_lists(profiles: Profiles) -> list[tuple[str, list[KeepPart]]]:
    """Return title → what is kept float and why: what all profiles keep, then each one's own."""
    found = profiles.profiles
    common = set(found[0].keep).intersection(*(item.keep for item in found[1:]))
    if len(found) == 1:
        common = set()
    lists = [("What every profile keeps float", [it for it in found[0].keep if it in common])]
    for item in found:
        title = f"What {item.name} {'also ' if common else ''}keeps float"
        lists.append((title, [keep for keep in item.keep if keep not in common]))
    return [(title, keeps) for title, keeps in lists if keeps]


def node_rows(run: ReportedRun) -> list[NodeRow]:
    """Return the table of nodes, most sensitive first."""
    inside = profiles_of_nodes(run.profiles)
    return [
        NodeRow(item, node_figures(item.node, run.report), inside.get(item.node.name, ""))
        for item in place(sorted(run.report.nodes, key=lambda node: node.rank))
    ]


def profiles_of_nodes(profiles: Profiles) -> dict[str, str]:
    """Return name → the profiles that quantize the node, also where it is another's companion."""
    inside: dict[str, list[str]] = {}
    for profile in profiles.profiles:
        for name in (*profile.quantize, *profile.companions):
            inside.setdefault(name, []).append(profile.name)
    return {name: " ".join(found) for name, found in inside.items()}


def without_gain(report: Sensitivity) -> int:
    """Return how many nodes, scored in both directions, gain nothing by being left out."""
    both = [node_figures(node, report).gain for node in report.nodes if node.solo]
    return sum(gain is not None and gain <= 0 for gain in both)

"""The rows of the report page's tables of nodes, and where each stands as far as its name says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qgraph._quantize.profiles import KeepPart, Profiles
from qgraph._report.reported_run import ReportedRun
from qgraph._sensitivity.ranking.node_figures import NodeFigures, node_figures
from qgraph._sensitivity.report import NodeScore, Sensitivity

_LAYER = re.compile(r"(?:^|[./_])(?:layers?|blocks?|h|stages?|model)[./_](\d+)(?=[./_]|$)")


@dataclass(frozen=True, slots=True)
class Placed:
    """`layer`: its number, None where the name holds none. `kind`: as in `q_proj`, `down_proj`."""

    node: NodeScore
    layer: int | None
    kind: str


def place(nodes: Sequence[NodeScore]) -> list[Placed]:
    """Return each node with its place, in the order given."""
    return [Placed(node, layer_of(node.scope), kind_of(node)) for node in nodes]


def layer_of(scope: str) -> int | None:
    """Return the number of the layer: `model.layers.11.mlp.down_proj` → 11."""
    found = _LAYER.search(scope)
    return int(found[1]) if found else None


def kind_of(node: NodeScore) -> str:
    """Return what the module is called inside its layer, or the operator.

    `model.layers.0.mlp.down_proj` → `down_proj`; `blocks.3.mlp.fc1` → `fc1`.
    """
    last = node.scope.rpartition(".")[2]
    return node.op_type if not last or last.isdigit() else last


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

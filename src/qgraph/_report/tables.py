"""The rows of the report page's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qgraph._quantize.profiles import KeepPart, Profiles
from qgraph._report.locate import Placed, place
from qgraph._report.reported_run import ReportedRun
from qgraph._sensitivity.report import NodeScore


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A row of the table of nodes. `profiles`: those that quantize it; `cause`, `remedy`: texts,
    empty where the report names none.
    """

    placed: Placed
    profiles: str
    cause: str
    remedy: str

    @property
    def node(self) -> NodeScore:
        """Return the node's scores."""
        return self.placed.node


def kept_lists(profiles: Profiles) -> list[tuple[str, list[KeepPart]]]:
    """Return title → what is kept float and why: what all profiles keep, then each one's own."""
    kept = [[(keep.name, keep.reason) for keep in item.keep] for item in profiles.profiles]
    common = set(kept[0]).intersection(*map(set, kept[1:])) if len(kept) > 1 else set()
    also = "also " if common else ""
    lists = [("What every profile keeps float", [keep for keep in kept[0] if keep in common])]
    for item, keeps in zip(profiles.profiles, kept, strict=True):
        own = [keep for keep in keeps if keep not in common]
        lists.append((f"What {item.name} {also}keeps float", own))
    return [
        (title, [KeepPart(name=name, reason=reason) for name, reason in keeps])
        for title, keeps in lists
        if keeps
    ]


def node_rows(run: ReportedRun) -> list[NodeRow]:
    """Return the table of nodes, most sensitive first."""
    inside = quantized_by(run.profiles)
    ordered = sorted(run.report.nodes, key=lambda node: node.rank)
    return [
        NodeRow(item, inside.get(item.node.name, ""), *cause_of(item.node))
        for item in place(ordered)
    ]


def quantized_by(profiles: Profiles) -> dict[str, str]:
    """Return node → the profiles that quantize it."""
    found: dict[str, list[str]] = {}
    for profile in profiles.profiles:
        for name in profile.quantize:
            found.setdefault(name, []).append(profile.name)
    return {name: " ".join(names) for name, names in found.items()}


def cause_of(node: NodeScore) -> tuple[str, str]:
    """Return why a node is sensitive and what would help; empty where the report does not say."""
    return ("", "") if node.cause is None else (node.cause.why, node.cause.remedy)


def without_gain(nodes: Sequence[NodeScore]) -> int:
    """Return how many nodes, scored in both directions, gain nothing by being left out."""
    both = [node.leave_one_out.gain for node in nodes if node.solo and node.leave_one_out]
    return sum(gain is not None and gain <= 0 for gain in both)

"""Two exports of one model: other files and other names of nodes, but the same modules."""

from __future__ import annotations

from collections import defaultdict

from qgraph._sensitivity.report import Sensitivity

_Key = tuple[str, int]


def same_nodes(report: Sensitivity, other: Sensitivity) -> dict[str, str] | None:
    """Return node of `other` → node of `report`, None where they are not exports of one model.

    Nodes are known by their module and their number of weights, several of a module by their order.
    Where the names are the same the weights must differ: these are two models.
    """
    ours, theirs = _by_module(report), _by_module(other)
    if {node.name for node in report.nodes} == {node.name for node in other.nodes}:
        return None
    if {key: len(names) for key, names in ours.items()} != {k: len(n) for k, n in theirs.items()}:
        return None
    if not all(module for module, _ in ours):
        return None
    return {
        name: own
        for key, names in theirs.items()
        for name, own in zip(names, ours[key], strict=True)
    }


def _by_module(report: Sensitivity) -> dict[_Key, list[str]]:
    found: dict[_Key, list[str]] = defaultdict(list)
    for node in report.nodes:
        found[node.scope, node.params].append(node.name)
    return found

"""A node that stays float, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """`name` is a node of the graph; `reason` is a sentence every report prints."""

    name: str
    reason: str


def by_reason(kept: Sequence[Keep]) -> dict[str, list[str]]:
    """Return reason → the nodes kept for it."""
    found: dict[str, list[str]] = {}
    for keep in kept:
        found.setdefault(keep.reason, []).append(keep.name)
    return found

"""A node that stays float, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keep:
    """`name` is a node of the graph; `reason` is a sentence every report prints."""

    name: str
    reason: str

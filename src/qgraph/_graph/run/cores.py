"""How many cores this process may use."""

from __future__ import annotations

import os

VARIABLE = "QGRAPH_CORES"
"""Cores that work here may use at most; a task on a cluster has so many."""


def cores() -> int:
    """Return the cores that the system lets this process run on, at least 1: fewer than the
    machine has, where an affinity, a container or `QGRAPH_CORES` says so.
    """
    return min(allowed() or _MANY, _of_the_system())


def allowed() -> int | None:
    """Return the cores that `QGRAPH_CORES` allows, None where it says nothing."""
    text = os.environ.get(VARIABLE, "")
    return max(1, int(text)) if text.isdecimal() else None


_MANY = 1 << 20


def _of_the_system() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

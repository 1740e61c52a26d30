"""How many cores this process may use."""

from __future__ import annotations

import os

VARIABLE = "QGRAPH_CORES"
"""Cores that work here may use at most; a task on a cluster has so many."""


def cores() -> int:
    """Return the cores that the system lets this process run on, at least 1: fewer than the
    machine has, where an affinity, a container or `QGRAPH_CORES` says so.
    """
    affine = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    return min(allowed() or found, found)


def allowed() -> int | None:
    """Return the cores that `QGRAPH_CORES` allows, None where it says nothing."""
    text = os.environ.get(VARIABLE, "")
    return max(1, int(text)) if text.isdecimal() else None

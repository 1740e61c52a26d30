"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that the system lets this process run on, at least 1: fewer than the
    machine has, where an affinity or a container says so.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

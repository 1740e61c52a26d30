"""How much memory this process may hold, and holds now."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_SHARE = 0.8
"""Of what is free when nobody names a budget: the rest is for other processes, and for estimates
that are too low."""


@dataclass(frozen=True, slots=True)
class Memory:
    """`budget`: bytes the whole process may have resident."""

    budget: int

    @classmethod
    def of(cls, budget: int | None) -> Memory:
        """Return this budget, or what the machine has to spare."""
        return cls(budget if budget is not None else resident() + int(_SHARE * available()))

    @property
    def left(self) -> int:
        """Return the bytes that may still be taken."""
        return max(0, self.budget - resident())


def resident() -> int:
    """Return the resident bytes of this process; 0 where the system does not say."""
    return _bytes_of("self/status", "VmRSS") or 0


def peak() -> int:
    """Return the most bytes this process had resident so far.

    On Linux as the kernel counts for the present program: getrusage's figure, which is what other
    systems have, starts with what the parent held.
    """
    found = _bytes_of("self/status", "VmHWM")
    if found is not None:
        return found
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used << 10


def give_back() -> None:
    """Return to the system what was freed, where the C library keeps it for each thread (glibc)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def available(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that can be taken without swapping, by the machine and by the container.

    `group`: the control group of this process, which a container limits.
    """
    machine = _bytes_of("meminfo", "MemAvailable")
    if machine is None:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        most = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group, or no limit: `max`
        return machine
    return min(machine, max(0, most - used))


def _bytes_of(file: str, key: str) -> int | None:
    """Return what Linux says of `key`; None where there is no such file or line."""
    try:
        lines = (Path("/proc") / file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:")), None)

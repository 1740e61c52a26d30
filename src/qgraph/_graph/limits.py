"""Limits on what a file may ask for: named, with defaults, settable by who runs the command.

| name           | default | of                                                                  |
|----------------|---------|---------------------------------------------------------------------|
| nodes          | 500000  | nodes of a model, functions and bodies counted as often as they run |
| step-seconds   | 600     | one step: onnxruntime opening or running a model, folding, a template |
| pattern-seconds| 5       | looking for one regular expression in all names                     |
| input-elements | 268435456 | numbers in one made-up sample                                     |

Each is set by an environment variable, as `QGRAPH_LIMIT_NODES=2000000`; a file cannot set any.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from qgraph._graph.errors import UsageError

_PREFIX = "QGRAPH_LIMIT_"


class Limit(Enum):
    """A limit, with its default."""

    NODES = 500_000.0
    STEP_SECONDS = 600.0
    PATTERN_SECONDS = 5.0
    INPUT_ELEMENTS = float(1 << 28)

    @property
    def variable(self) -> str:
        """Return the environment variable that sets it."""
        return f"{_PREFIX}{self.name}"

    @property
    def hint(self) -> str:
        """Return how to set it, for messages."""
        return f"If the file is one you trust, set {self.variable} higher."

    def get(self) -> float:
        """Return the limit in force.

        Raises:
            UsageError: the variable holds no number above 0.
        """
        text = os.environ.get(self.variable)
        if text is None:
            return float(self.value)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise UsageError(f"found {self.variable}={text!r}, expected a number above 0")
        return value


class _Alarm:
    """The kernel's timer, armed while a step is under way; it ends the process.

    A step may be in a library that neither returns nor lets another thread of Python work, so the
    signal keeps its default action. Steps may overlap: each that begins or ends is a sign of life.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._steps = 0

    def arm(self) -> None:
        """From now on, end the process where a step takes too long; its parent says why."""
        self._seconds = Limit.STEP_SECONDS.get()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def count(self, change: int) -> None:
        """Take in that a step began, or ended."""
        if not self._seconds:
            return
        with self._lock:
            self._steps += change
            signal.setitimer(signal.ITIMER_REAL, self._seconds if self._steps else 0)


_ALARM = _Alarm()
end_after_limit = _ALARM.arm


@contextmanager
def step() -> Iterator[None]:
    """Work that must end within `Limit.STEP_SECONDS` where the process is one of the command's."""
    _ALARM.count(1)
    try:
        yield
    finally:
        _ALARM.count(-1)

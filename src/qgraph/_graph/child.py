"""Processes of our own: run by this interpreter, told who started them, gone when that one goes.

Loads the standard library alone, as the parent of the command line does: it must outlive whatever
numpy, onnx or a runtime may do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from qgraph._graph.errors import LimitError

PARENT = "QGRAPH_CHILD"
"""The variable that tells a child which process started it."""
_PR_SET_PDEATHSIG = 1
_TAIL = 4000
"""Bytes of a log that are searched for its last line."""


def command(module: str, *arguments: str) -> list[str]:
    """Return what runs a module in a process of its own, whatever lies in the working folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a child of this process."""
    return {**os.environ, **more, PARENT: str(os.getpid())}


def die_with_parent() -> None:
    """Ask the kernel (Linux) to end this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # it may have ended before the kernel was asked
        if str(os.getppid()) != os.environ.get(PARENT):
            os._exit(1)


def send(pipe: int, line: bytes) -> None:
    """Write a line to a pipe, all of it."""
    line += b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def how_it_ended(code: int) -> str:
    """Return an exit code in words; below 0 it is the signal that ended the process."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def killed(what: str, again: str = "") -> LimitError:
    """Return the error of a process ended by SIGKILL, which is most likely the kernel's answer to
    a lack of memory. `what`: runs or ran in it; `again`: begins the hint.
    """
    return LimitError(
        f"the process that {what} was killed (SIGKILL), most likely because memory ran out",
        hint=f"{again}Use fewer or shorter samples, or a machine with more memory.",
    )


def last_words(log: Path) -> str:
    """Return the last line that a process printed, for a message; '' where it printed none."""
    text = log.read_bytes()[-_TAIL:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if lines else ""

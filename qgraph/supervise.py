"""The `qgraph` command: a parent that outlives whatever a model does to the runtime.

The work happens in a child process. A model that crashes onnxruntime, or exhausts memory, kills
the child; the parent is there to say so, with the exit code documented for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

_CHILD = "QGRAPH_CHILD"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the command line in a child process and exit as it does."""
    if os.environ.get(_CHILD):
        _die_with_parent()
        # the parent never gets here: it must not load a runtime
        from qgraph.cli import main as run

        run()
        return
    sys.exit(_supervise(sys.argv[1:]))


def _supervise(arguments: list[str]) -> int:
    command = [sys.executable, "-P", "-m", "qgraph", *arguments]
    environment = {**os.environ, _CHILD: str(os.getpid())}
    child = subprocess.Popen(command, env=environment)  # noqa: S603 - our own interpreter

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # Ctrl-C reaches the child from the terminal itself; the parent only waits.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, forward)
    return _exit_code(child.wait())


def _exit_code(code: int) -> int:
    """Return the exit code for the user, explaining a child that was killed."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL:
        print(
            "Error: the process that ran the model was killed (SIGKILL), most likely because memory"
            " ran out.\nUse fewer or shorter samples, or a machine with more memory.",
            file=sys.stderr,
        )
        return 5
    print(
        f"Error: the runtime died in its child process ({name}); nothing partial was written.\n"
        "The model makes onnxruntime crash; check it with onnx.checker, or export it again.",
        file=sys.stderr,
    )
    return 6


def _die_with_parent() -> None:
    """Ask the kernel (Linux) to end this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if str(os.getppid()) != os.environ[_CHILD]:
            os._exit(1)

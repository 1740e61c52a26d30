"""The `qgraph` command: a parent that outlives whatever a model does to the runtime.

The work happens in a child process (`_cli.child`). A model that crashes onnxruntime, or exhausts
memory, kills the child; the parent is there to say so, with the exit code documented for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from types import FrameType

from qgraph._graph.child import command, environment, killed
from qgraph._graph.errors import (
    EnvironmentFault,
    InterruptedRun,
    LimitError,
    QGraphError,
    RuntimeDiedError,
)
from qgraph._graph.limits import Limit

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Requests to stop. One that is ignored as the command begins, as under nohup, stays so."""
NOBODY_READS = 128 + signal.SIGPIPE
"""The exit code that shells know of a process whose reader went away."""
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
"""No command asks the network for anything, whatever a checkpoint names, or tells it anything:
onnxruntime 1.31 has a telemetry of its own, which keeps a file in the folder for temporary ones."""


def main() -> None:
    """Run the command line in a child process and exit as it does."""
    sys.exit(_supervise(sys.argv[1:]))


def _supervise(arguments: list[str]) -> int:
    stops = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    # Blocked until there is a child to forward to, and in the child until it has its handlers.
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter
            command("qgraph._cli.child", *arguments), env=environment(**_OFFLINE, **_utf_8())
        )
    except OSError as error:
        fault = EnvironmentFault(f"cannot start the process that does the work: {error.strerror}")
        return explain(fault, arguments)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in stops:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
    code = child.wait()
    return code if code >= 0 else explain(_death(signal.Signals(-code)), arguments)


def _utf_8() -> dict[str, str]:
    """Return what makes names of files UTF-8 whatever the locale is; a terminal keeps its own."""
    shown = sys.stdout.encoding if sys.stdout else "utf-8"
    return {"PYTHONUTF8": "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING", shown)}


def _death(by: signal.Signals) -> QGraphError:
    """Return what a child killed by this signal means to the user."""
    if by is signal.SIGALRM:
        limit = Limit.STEP_SECONDS
        return LimitError(
            f"a step took longer than {limit.get():g} s: onnxruntime opening or running the model,"
            " folding it, or rendering a template; nothing partial was written",
            hint=f"A loop in the model may have no end. {limit.hint}",
        )
    if by in STOPS:
        return InterruptedRun("interrupted", hint="Run the same command again.")
    if by is signal.SIGKILL:
        return killed("ran the model")
    return RuntimeDiedError(
        f"the runtime died in its child process ({by.name}); nothing partial was written",
        hint="The model makes onnxruntime crash; check it with onnx.checker, or export it again.",
    )


def explain(error: QGraphError, arguments: list[str]) -> int:
    """Print the error without the console of the child, which loads too much for the parent."""
    with contextlib.suppress(OSError):  # a full disk, a closed terminal: the code must do
        if "--json" in arguments:
            print(json.dumps(error.as_dict(), indent=1), flush=True)
        else:
            print(f"Error: {error}", file=sys.stderr, flush=True)
    return error.exit_code

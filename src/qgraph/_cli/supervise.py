"""The `qgraph` command: a parent that outlives whatever a model does to the runtime.

The work happens in a child process. A model that crashes onnxruntime, or exhausts memory, kills
the child; the parent is there to say so, with the exit code documented for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import FrameType

from qgraph._graph.child import PARENT, command, die_with_parent, environment, killed
from qgraph._graph.errors import (
    InterruptedRun,
    LimitError,
    QGraphError,
    RuntimeDiedError,
    UsageError,
)
from qgraph._graph.limits import Limit, end_after_limit
from qgraph._graph.stopping import StopRequest

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""No command asks the network for anything, whatever a checkpoint names."""
_STOPS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command line in a child process and exit as it does."""
    if os.environ.get(PARENT):
        die_with_parent()
        sys.exit(_work(sys.argv[1:]))
    sys.exit(_supervise(sys.argv[1:]))


def _work(arguments: list[str]) -> int:
    """Run the command line, in the child; return its exit code."""
    signals = _Signals()
    for number in _STOPS:
        signal.signal(number, signals)
    # the parent never gets here: it must not load a runtime
    from qgraph._cli.cli import run

    try:
        signals.begin()
        end_after_limit()
        return run(arguments, signals.stop)
    except UsageError as error:
        return _explain(error, arguments)
    except KeyboardInterrupt:
        return _explain(InterruptedRun("interrupted before the work began"), arguments)


class _Signals:
    """What a request to stop does: raises KeyboardInterrupt, once the imports are through and where
    no work holds it back. An import that is interrupted leaves half a module behind.
    """

    def __init__(self) -> None:
        self.stop = StopRequest()
        self._working = False

    def begin(self) -> None:
        """Heed requests from here on, and one that came before."""
        self._working = True
        self.stop.heed()

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Take a signal."""
        if self.stop.ask() and self._working:
            # Not an Exception: nothing on the way may take it for a failure of the runtime.
            raise KeyboardInterrupt


def _supervise(arguments: list[str]) -> int:
    # Ignored until there is a child to forward to; the child sets its own handlers.
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(  # noqa: S603 - our own interpreter
        command("qgraph", *arguments), env=environment(**_OFFLINE)
    )

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in _STOPS:
        signal.signal(number, forward)
    code = child.wait()
    return code if code >= 0 else _explain(_death(signal.Signals(-code)), arguments)


def _death(by: signal.Signals) -> QGraphError:
    """Return what a child killed by this signal means to the user."""
    if by is signal.SIGALRM:
        limit = Limit.STEP_SECONDS
        return LimitError(
            f"a step took longer than {limit.get():g} s: onnxruntime opening or running the model,"
            " folding it, or rendering a template; nothing partial was written",
            hint=f"A loop in the model may have no end. {limit.hint}",
        )
    if by in _STOPS:
        return InterruptedRun("interrupted", hint="Run the same command again.")
    if by is signal.SIGKILL:
        return killed("ran the model")
    return RuntimeDiedError(
        f"the runtime died in its child process ({by.name}); nothing partial was written",
        hint="The model makes onnxruntime crash; check it with onnx.checker, or export it again.",
    )


def _explain(error: QGraphError, arguments: list[str]) -> int:
    """Print the error without the console of the child, which loads too much for the parent."""
    if "--json" in arguments:
        print(json.dumps(error.as_dict(), indent=1))
    else:
        print(f"Error: {error}", file=sys.stderr)
    return error.exit_code

"""The process that does a command's work, under the parent that `_cli.supervise` is."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

from qgraph._cli.supervise import NOBODY_READS, STOPS, explain
from qgraph._graph.child import die_with_parent
from qgraph._graph.errors import EnvironmentFault, InterruptedRun, LimitError, UsageError
from qgraph._graph.limits import end_after_limit
from qgraph._graph.stopping import StopRequest


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


def work(arguments: list[str]) -> int:
    """Run the command line; return its exit code."""
    signals = _Signals()
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        # the parent never gets here: it must not load a runtime
        from qgraph._cli.cli import cli, run

        cli.commands.get(next(iter(arguments), ""))  # which imports what it works with
    except Exception as error:  # memory, a damaged package, a library that cannot be mapped
        _end_unloaded(error, arguments)
    try:
        signals.begin()
        end_after_limit()
        return _flushed(run(arguments, signals.stop))
    except UsageError as error:
        return explain(error, arguments)
    except KeyboardInterrupt:
        return explain(InterruptedRun("interrupted before the work began"), arguments)


def _end_unloaded(error: Exception, arguments: list[str]) -> None:
    """End the process, whose half-loaded libraries may never let it end by itself."""
    if "--debug" in arguments:
        traceback.print_exception(error)
    if isinstance(error, MemoryError):
        fault = LimitError(
            "there is too little memory to load qgraph", hint="Raise the limit, see ulimit -v."
        )
        code = explain(fault, arguments)
    else:
        unloaded = EnvironmentFault(
            f"qgraph cannot be loaded: {type(error).__name__}: {error}",
            hint="A package is missing or damaged, or memory is short; install qgraph again.",
        )
        code = explain(unloaded, arguments)
    os._exit(code)


def _flushed(code: int) -> int:
    """Return `code`, or that of an environment which did not take what was printed."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that ending does not try again
        gone = isinstance(error, BrokenPipeError)
        return code or (NOBODY_READS if gone else EnvironmentFault.exit_code)
    return code


if __name__ == "__main__":
    die_with_parent()
    sys.exit(work(sys.argv[1:]))

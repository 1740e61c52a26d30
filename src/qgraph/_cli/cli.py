"""The command line: commands, errors and exit codes.

This module runs in the child process; `_cli.supervise` is what the user starts.
"""

from __future__ import annotations

import contextlib
import os
import traceback

import click

from qgraph._cli.commands_table import Commands
from qgraph._cli.console import OUT, print_anywhere, print_error, print_json
from qgraph._cli.supervise import NOBODY_READS
from qgraph._graph.errors import (
    EnvironmentFault,
    InputError,
    InterruptedRun,
    LimitError,
    QGraphError,
    UsageError,
)
from qgraph._graph.run.installed import require_one_runtime
from qgraph._graph.stopping import StopRequest
from qgraph._graph.version import VERSION


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(VERSION, prog_name="qgraph")
def cli() -> None:
    """Find the nodes of an ONNX model that hurt when quantized; write Q/DQ models without them.

    export → sensitivity → profile → quantize → evaluate → report; `run` does them all.

    Exit codes: 0 done, 2 usage, 3 bad input, 4 environment, 5 a limit, 6 the runtime
    crashed, 7 a quality gate failed, 75 interrupted (the same command continues).
    """


def run(arguments: list[str], stop: StopRequest | None = None) -> int:
    """Run the command line; return the exit code that belongs to what happened. `stop`: what the
    process's signal handlers tell of.
    """
    print_anywhere()
    try:
        require_one_runtime()
        _require_text(arguments)
        code = cli.main(arguments, prog_name="qgraph", standalone_mode=False, obj=stop)
    except QGraphError as error:
        return _report(error, arguments)
    except (click.Abort, KeyboardInterrupt):
        return _report(InterruptedRun("interrupted", hint=_AGAIN), arguments)
    except click.ClickException as error:
        if "--json" not in arguments:
            error.show()
            return UsageError.exit_code
        return _report(UsageError(error.format_message(), hint=_HELP), arguments)
    except SystemExit as end:  # click: completion is done, or nobody reads the help any more
        code = NOBODY_READS if end.code else 0
    except Exception as error:  # whatever is left; the user still gets one message
        return _report(_explained(error), arguments)
    # a command that printed its result and still means another code exits with it
    failed = code if isinstance(code, int) else 0
    return failed or (NOBODY_READS if OUT.quiet else 0)


_HELP = "qgraph COMMAND --help lists the options."
_AGAIN = (
    "No half-finished file is left. The same command continues from what it kept, or starts again."
)


def _require_text(arguments: list[str]) -> None:
    """Check that names of files can be written down: in reports, in models, in JSON.

    Raises:
        InputError: bytes that are no UTF-8.
    """
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise InputError(
                "the name of a file is not UTF-8", where=argument, hint="Rename the file."
            )


def _report(error: QGraphError, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exception(error)
    if "--json" in arguments:
        with contextlib.suppress(EnvironmentFault):  # where printing is what failed
            print_json(error.as_dict())
    else:
        print_error(str(error))
    return error.exit_code


def _explained(error: Exception) -> QGraphError:
    """Return what the user is told of an error that nobody foresaw."""
    wrapped: QGraphError
    if isinstance(error, OSError) and error.errno:
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        wrapped = EnvironmentFault(f"the operating system refused: {error.strerror}", where=where)
    elif isinstance(error, MemoryError):
        wrapped = LimitError("memory ran out", hint="Use fewer or shorter samples.")
    elif isinstance(error, RecursionError):
        wrapped = LimitError("something in a file is nested too deeply")
    else:
        wrapped = QGraphError(
            f"unexpected {type(error).__name__}: {error}",
            hint="This is a defect of qgraph. --debug shows where; please report it.",
        )
    wrapped.__cause__ = error
    return wrapped

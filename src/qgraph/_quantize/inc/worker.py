"""The process that INC runs in: `python -m qgraph._quantize.inc.worker WORKSPACE DESCRIPTOR`.

It does what the request in the workspace says and writes one answer per line to the descriptor.
Its standard output and error go nowhere but into the workspace.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from pathlib import Path

from qgraph._graph.child import die_with_parent, send
from qgraph._graph.errors import QGraphError
from qgraph._graph.io.models import read_model, write_model
from qgraph._quantize.inc.adaptor import Adaptor, inc_at_work
from qgraph._quantize.inc.capture import Captured
from qgraph._quantize.inc.protocol import (
    MODEL,
    REQUEST,
    RESULT,
    Failure,
    IncAnswer,
    IncUnit,
    Request,
    UnitKind,
    UnitScore,
    read_feed,
)
from qgraph._quantize.inc.ptq import quantize_as_inc_does

_ONE_FILE = 1 << 40


def main(arguments: list[str]) -> int:
    """Work through the request; return the exit code, 1 after a failure that was reported."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is for qgraph to handle
    die_with_parent()
    workspace, pipe = Path(arguments[0]), int(arguments[1])
    request = Request.model_validate_json((workspace / REQUEST).read_bytes())
    try:
        with inc_at_work(as_written=request.as_written):
            _work(workspace, request, pipe)
    except QGraphError as error:
        _send(pipe, IncAnswer(failure=Failure(type=type(error).__name__, message=error.message)))
        return 1
    except (Exception, SystemExit) as error:  # INC calls exit() on some faults
        _send(pipe, IncAnswer(failure=Failure(type=type(error).__name__, message=str(error))))
        raise
    _send(pipe, IncAnswer(done=True))
    return 0


def _work(workspace: Path, request: Request, pipe: int) -> None:
    model = read_model(workspace / MODEL)
    feeds = [read_feed(workspace, index, request.inputs) for index in range(request.feeds)]
    if request.write_model:
        made = quantize_as_inc_does(model, feeds, request)
        write_model(made, workspace / RESULT, external_above=_ONE_FILE)
        return
    inc = Adaptor(model, feeds, request, workspace)
    _send(pipe, IncAnswer(settings=inc.settings))
    offered = {name for name, _ in request.candidates} - set(inc.settings.not_offered)
    clock = _Clock()
    for kind in UnitKind:
        nodes = {unit.node for unit in request.units if unit.kind is kind}
        if nodes and kind is UnitKind.ALL:
            _send(
                pipe, IncAnswer(score=_score(IncUnit(kind=kind), inc.score_all(), offered, clock))
            )
        elif nodes:

            def report(captured: Captured, kind: UnitKind = kind) -> None:
                unit = IncUnit(kind=kind, node=captured.op[0])
                meant = {unit.node} if kind is UnitKind.SOLO else offered - {unit.node}
                _send(pipe, IncAnswer(score=_score(unit, captured, meant, clock)))

            inc.score(kind, nodes, report)


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _score(unit: IncUnit, captured: Captured, meant: set[str], clock: _Clock) -> UnitScore:
    return UnitScore(
        unit=unit,
        inc_mse=captured.inc_mse,
        figures=dict(captured.figures),
        left_float=tuple(sorted(meant - captured.quantized)),
        seconds=clock.lap(),
    )


def _send(pipe: int, answer: IncAnswer) -> None:
    send(pipe, answer.model_dump_json(exclude_none=False).encode())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))

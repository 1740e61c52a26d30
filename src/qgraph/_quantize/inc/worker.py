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

import onnx

from qgraph._graph.child import die_with_parent, send
from qgraph._graph.errors import InputError, QGraphError
from qgraph._graph.io.models import read_model, write_model
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc.adaptor import RECIPES, Adaptor, Loader, inc_at_work
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

_FLOAT = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
_TYPES = {"MatMul", "Gemm", "Conv"}


def quantize_as_inc_does(
    model: onnx.ModelProto, feeds: list[Feed], request: Request
) -> onnx.ModelProto:
    """Return what `quantization.fit` makes of `model` with the candidates quantized.

    Nodes that stay float are excluded through `op_name_dict`, other operators through
    `op_type_dict`; there is no tuning.

    Raises:
        InputError: INC returned no model.
    """
    # an extra, seconds to import; it exists in the child process only
    from neural_compressor import PostTrainingQuantConfig, quantization

    chosen = {name for name, _ in request.candidates}
    names = [node.name for node in model.graph.node if node.op_type in _TYPES]
    types = {node.op_type for node in model.graph.node} - _TYPES
    recipes = dict(RECIPES)
    if request.smooth is not None:
        recipes |= {"smooth_quant": True, "smooth_quant_args": {"alpha": request.smooth}}
    config = PostTrainingQuantConfig(
        device="gpu" if request.tensorrt else "cpu",
        backend="onnxrt_trt_ep" if request.tensorrt else "default",
        quant_format="QDQ",
        recipes=recipes,
        calibration_sampling_size=[request.feeds],
        op_name_dict={name: _FLOAT for name in names if name not in chosen},
        op_type_dict=dict.fromkeys(sorted(types), _FLOAT),
        reduce_range=False,
    )
    made = quantization.fit(model, config, calib_dataloader=Loader(feeds))
    if made is None:
        raise InputError("Intel Neural Compressor returned no model")
    result: onnx.ModelProto = made.model
    return result


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
    last = time.perf_counter()

    def say(unit: IncUnit, captured: Captured, meant: set[str]) -> None:
        nonlocal last
        before, last = last, time.perf_counter()
        found = UnitScore(
            unit=unit,
            inc_mse=captured.inc_mse,
            figures=dict(captured.figures),
            left_float=tuple(sorted(meant - captured.quantized)),
            seconds=last - before,
        )
        _send(pipe, IncAnswer(score=found))

    for kind in UnitKind:
        nodes = {unit.node for unit in request.units if unit.kind is kind}
        if nodes and kind is UnitKind.ALL:
            say(IncUnit(kind=kind), inc.score_all(), offered)
        elif nodes:

            def report(captured: Captured, kind: UnitKind = kind) -> None:
                unit = IncUnit(kind=kind, node=captured.op[0])
                meant = {unit.node} if kind is UnitKind.SOLO else offered - {unit.node}
                say(unit, captured, meant)

            inc.score(kind, nodes, report)


def _send(pipe: int, answer: IncAnswer) -> None:
    send(pipe, answer.model_dump_json(exclude_none=False).encode())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))

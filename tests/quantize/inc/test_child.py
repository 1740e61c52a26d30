"""The process INC runs in: what becomes of it becomes a message and an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qgraph._graph.errors import InputError, LimitError, QGraphError, RuntimeDiedError
from qgraph._quantize.inc import IncUnit, Patience, Request, UnitKind, converse
from qgraph._quantize.inc.protocol import IncAnswer

FEEDS = [{"x": np.random.default_rng(i).standard_normal((3, 8)).astype(np.float32)} for i in (0, 1)]
TEXT = """(float[n, 8] x) => (float[n, 4] y)
    { [first] h = MatMul(x, w1) r = Relu(h) [second] y = MatMul(r, w2) }"""


@pytest.fixture
def model(build: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    draw = np.random.default_rng(7).standard_normal
    w1, w2 = draw((8, 8)).astype(np.float32), draw((8, 4)).astype(np.float32)
    return build(TEXT, w1=w1, w2=w2)


def request(*candidates: str) -> Request:
    names = candidates or ("first", "second")
    kinds = [IncUnit(kind=UnitKind.ALL)]
    kinds += [
        IncUnit(kind=kind, node=n) for kind in (UnitKind.SOLO, UnitKind.WITHOUT) for n in names
    ]
    return Request(
        inputs=("x",),
        feeds=len(FEEDS),
        candidates=tuple((name, "MatMul") for name in names),
        tensorrt=False,
        outputs=("y",),
        logits=False,
        batches=len(FEEDS),
        units=tuple(kinds),
    )


def worker() -> int:
    """Return the process id of the one child of this process that runs INC."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return next(
        int(pid)
        for pid in children
        if b"qgraph._quantize.inc.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_every_unit_is_answered_once_in_order_and_the_workspace_goes(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    heard: list[IncAnswer] = []
    converse(model, FEEDS, request(), heard.append)
    assert heard[0].settings is not None
    units = [answer.score.unit.key for answer in heard[1:] if answer.score]
    assert units == [unit.key for unit in request().units]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, LimitError), (signal.SIGSEGV, RuntimeDiedError)]
)
def test_its_death_is_an_error_with_the_exit_code_for_it(
    model: onnx.ModelProto, number: signal.Signals, error: type[QGraphError]
) -> None:
    heard: list[IncAnswer] = []

    def hear(answer: IncAnswer) -> None:
        heard.append(answer)
        if len(heard) == 1:
            os.kill(worker(), number)

    with pytest.raises(error, match=number.name):
        converse(model, FEEDS, request(), hear)
    assert heard


def test_a_process_that_falls_silent_is_stopped(model: onnx.ModelProto) -> None:
    seen = []

    def hear(_: IncAnswer) -> None:
        seen.append(worker())
        os.kill(worker(), signal.SIGSTOP)

    with pytest.raises(LimitError, match="gave no answer"):
        converse(model, FEEDS, request(), hear, Patience(least=1, times=0))
    assert len(seen) == 1
    assert not Path(f"/proc/{seen[0]}").exists()


def test_what_the_listener_raises_ends_the_process(model: onnx.ModelProto) -> None:
    seen = []

    def hear(_: IncAnswer) -> None:
        seen.append(worker())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converse(model, FEEDS, request(), hear)
    assert not Path(f"/proc/{seen[0]}").exists()


def test_a_failure_of_inc_is_an_error_with_its_words(model: onnx.ModelProto) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].op_type = "Nonsense"
    with pytest.raises(InputError, match="Intel Neural Compressor failed"):
        converse(broken, FEEDS, request("second"), lambda _: None)

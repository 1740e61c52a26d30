"""Talking to the process that INC runs in: starting it, reading it, telling what became of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from qgraph._graph.child import command, environment, how_it_ended, killed, last_words
from qgraph._graph.errors import InputError, LimitError, QGraphError, RuntimeDiedError
from qgraph._graph.io.files import write_bytes, write_text
from qgraph._graph.io.models import to_bytes
from qgraph._graph.tensors import Feed
from qgraph._quantize.inc.protocol import MODEL, REQUEST, IncAnswer, Request, write_feeds

_LOG = "inc.log"


@dataclass(frozen=True, slots=True)
class Patience:
    """A silent process counts as hung after `least` seconds, or `times` its longest silence; before
    its first answer, while it imports INC, after `first` seconds.
    """

    first: float = 900.0
    least: float = 900.0
    times: float = 20.0


def converse(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    request: Request,
    hear: Callable[[IncAnswer], None],
    patience: Patience | None = None,
    collect: Callable[[Path], None] | None = None,
) -> None:
    """Run INC on `model` in a child process; `hear` is called for each answer as it comes.

    `collect` gets the private workspace before it is removed. What `hear` raises ends the process.

    Raises:
        LimitError: the process was killed (SIGKILL, most likely memory) or fell silent.
        RuntimeDiedError: it crashed, or broke off.
        InputError: INC failed on the model; the message is INC's.
    """
    with tempfile.TemporaryDirectory(prefix="qgraph-inc-") as name:
        workspace = Path(name)
        write_bytes(workspace / MODEL, to_bytes(model))
        write_feeds(workspace, list(feeds), request.inputs)
        write_text(workspace / REQUEST, request.model_dump_json())
        with _process(workspace) as (process, pipe):
            for answer in _answers(process, pipe, workspace, patience or Patience()):
                if answer.failure is not None:
                    raise _failed(answer.failure.type, answer.failure.message)
                hear(answer)
        if collect is not None:
            collect(workspace)


@contextmanager
def _process(workspace: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield the process and the end of the pipe to read; on leaving it is gone."""
    ours, theirs = os.pipe()
    # No terminal signal reaches it: an interruption is qgraph's to handle.
    try:
        with (workspace / _LOG).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter
                command("qgraph._quantize.inc.worker", str(workspace), str(theirs)),
                cwd=workspace,
                env=environment(PYTHONHASHSEED="0", TMPDIR=str(workspace)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs],
                process_group=0,
            )
    finally:
        os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _answers(
    process: subprocess.Popen[bytes], pipe: int, workspace: Path, patience: Patience
) -> Iterator[IncAnswer]:
    """Yield answers until the process says that it is done."""
    for line in _lines(pipe, patience):
        try:
            answer = IncAnswer.model_validate_json(line)
        except ValueError as error:
            raise RuntimeDiedError(
                f"the process that runs Intel Neural Compressor said {line[:200]!r}",
                hint="Please report this.",
            ) from error
        if answer.done:
            return
        yield answer
    raise _death(process.wait(), workspace)


def _lines(pipe: int, patience: Patience) -> Iterator[bytes]:
    """Yield lines until the other end is closed.

    Raises:
        LimitError: nothing came for longer than `patience` allows.
    """
    rest, longest, heard = b"", 0.0, time.monotonic()
    limit = patience.first
    while True:
        if not select.select([pipe], [], [], limit)[0]:
            raise LimitError(
                f"Intel Neural Compressor gave no answer for {limit:.0f} s and was stopped",
                hint="Finished nodes are kept. Run the same command again to continue.",
            )
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        longest, heard = max(longest, time.monotonic() - heard), time.monotonic()
        limit = max(patience.least, patience.times * longest)
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _failed(kind: str, message: str) -> InputError:
    lines = message.strip().splitlines() or [kind]
    return InputError(
        f"Intel Neural Compressor failed on the model: {kind}: {lines[0][:500]}",
        hint="Leave the node it names out with --exclude, or use --engine auto.",
    )


def _death(code: int, workspace: Path) -> QGraphError:
    """Return what the end of the process means to the user."""
    again = "Finished nodes are kept. Run the same command again to continue."
    if code == -signal.SIGKILL:
        return killed("runs Intel Neural Compressor", f"{again} ")
    how = how_it_ended(code)
    return RuntimeDiedError(
        f"the process that runs Intel Neural Compressor died ({how}){last_words(workspace / _LOG)}",
        hint=again,
    )

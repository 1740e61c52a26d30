"""`qgraph` commands in forks of one process that has loaded everything once.

What differs from the command that a user starts: the child is a fork instead of a new interpreter,
and its supervisor is `call`, which reads how a child ended as `_cli.supervise` does. What the child
does (`_cli.child.work`) is the same. A child's Python calls are watched: files opened for writing
outside the folders it may write to, processes, sockets.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgraph._cli import supervise
from qgraph._cli.child import work

SECONDS = 90.0
"""After this a command hangs. Steps are limited to much less (`QGRAPH_LIMIT_STEP_SECONDS`)."""
TRESPASS = "TRESPASS"
_TREE = str(Path(supervise.__file__).parents[2])
_MEMORY = 8 << 30
_CODES = frozenset((0, 2, 3, 4, 5, 6, 7, 75))


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code`: its exit code, None where it hung; `died`: of this signal."""

    code: int | None
    out: str
    err: str
    died: int = 0

    @property
    def faults(self) -> list[str]:
        """Return what no command may do, whatever its input is."""
        found = []
        if self.code is None:
            found.append("hang")
        elif self.code not in _CODES:
            found.append(f"exit code {self.code}")
        return found + [word for word in ("Traceback", TRESPASS) if word in self.err]


def load() -> None:
    """Load what commands load; call it once, before any fork."""
    import onnx_graphsurgeon  # noqa: F401
    import onnxruntime  # noqa: F401

    import qgraph

    # commands load what they need when they are asked: all of it now, instead of in every fork
    for module in pkgutil.walk_packages(qgraph.__path__, "qgraph."):
        if not module.name.startswith(("qgraph._exporters.", "qgraph.__main__")):
            importlib.import_module(module.name)


def call(
    arguments: Sequence[str],
    base: Path,
    *,
    seconds: float = SECONDS,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """Run a command in a fork that works in `base`; what it writes lies in `base/out`, `base/tmp`.

    `prepare` runs in the fork before the command does.
    """
    files = [base / "stdout", base / "stderr"]
    pid = os.fork()
    if pid == 0:
        _work(arguments, base, files, prepare)
    hung, status = _wait(pid, seconds)
    # a process that is killed at once has opened neither
    texts = (path.read_bytes() if path.exists() else b"" for path in files)
    out, err = (text.decode("utf-8", "replace") for text in texts)
    if hung:
        return Ended(None, out, err)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Ended(code, out, err)
    return Ended(supervise._death(signal.Signals(-code)).exit_code, out, err, -code)


def call_really(arguments: Sequence[str], base: Path, *, seconds: float = SECONDS) -> Ended:
    """Run the command as a user does, from the tree that this process runs."""
    command = [sys.executable, "-m", "qgraph", *arguments]
    try:
        done = subprocess.run(
            command, cwd=base, capture_output=True, timeout=seconds, check=False,
            env={**os.environ, "PYTHONPATH": _TREE, "TMPDIR": str(base / "tmp")}, preexec_fn=_limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Ended(None, "", "")
    out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
    return Ended(done.returncode, out, err)


def _work(
    arguments: Sequence[str], base: Path, files: list[Path], prepare: Callable[[], None] | None
) -> None:
    """End this fork with the exit code of the command."""
    code = 1
    try:
        # with its starter, as commands do
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.chdir(base)
        for number, path in enumerate(files, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["TMPDIR"] = tempfile.tempdir = str(base / "tmp")
        _limit()
        sys.addaudithook(_watch([base / "out", base / "tmp", base / "in" / "run"]))
        if prepare is not None:
            prepare()
        code = work(list(arguments))
    except BaseException:  # nothing of it may go on in the fork
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(pid: int, seconds: float) -> tuple[bool, int]:
    """Return whether the process hung, and its status; it is gone then."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], seconds)
    finally:
        os.close(descriptor)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    return not ready, os.waitpid(pid, 0)[1]


_FORBIDDEN = frozenset(
    ("socket.connect", "socket.bind", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
)


_OURS = [sys.executable, "-P", "-m"]


def _is_ours(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether a process is one of the few that qgraph starts, of its own modules."""
    command = list(arguments[1]) if event == "subprocess.Popen" else []
    return command[:3] == _OURS and str(command[3]).startswith("qgraph.")


def _watch(allowed: Sequence[Path]) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that writes trespasses to the standard error."""
    roots = (*(f"{path}{os.sep}" for path in allowed), "/dev/", "/proc/")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or isinstance(path, int):
                return
            where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - does not touch the disk
            if not f"{where}{os.sep}".startswith(roots):
                os.write(2, f"{TRESPASS} writes {where}\n".encode())
        elif event in _FORBIDDEN and not _is_ours(event, arguments):
            os.write(2, f"{TRESPASS} {event} {arguments!r:.200}\n".encode())

    return hook

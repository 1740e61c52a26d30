"""Processes of our own: gone when their parent goes, and what becomes of them in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qgraph._graph.child import PARENT, command, environment, how_it_ended, last_words, send

_WAIT = "import os,time; from qgraph._graph.child import die_with_parent as d; d(); "


def test_it_loads_the_standard_library_alone() -> None:
    code = "import sys; before = set(sys.modules); import qgraph._graph.child;"
    code += "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {*sys.stdlib_module_names, "qgraph"}


def test_a_child_is_told_who_started_it() -> None:
    found = environment(ANSWER="42")
    assert found[PARENT] == str(os.getpid()) and found["ANSWER"] == "42"
    assert found["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_child_whose_parent_is_killed_dies() -> None:
    inner = f"{_WAIT} print(os.getpid(), flush=True); time.sleep(60)"
    outer = (
        "import subprocess,sys; from qgraph._graph.child import environment as e;"
        f"subprocess.run([sys.executable,'-c',{inner!r}],env=e())"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        end = time.monotonic() + 30
        while _is_running(child) and time.monotonic() < end:
            time.sleep(0.01)
    assert not _is_running(child)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_child_whose_parent_is_gone_already_does_not_begin() -> None:
    orphan = {**os.environ, PARENT: "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"{_WAIT} print('began')"],
        env=orphan,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout


def test_a_line_longer_than_the_pipe_arrives_whole() -> None:
    read, write = os.pipe()
    with subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"],
                          stdin=read, stdout=subprocess.PIPE) as reader:  # fmt: skip
        os.close(read)
        send(write, b"x" * 300_000)
        os.close(write)
        assert reader.communicate()[0].strip() == b"300001"


def test_the_end_of_a_process_has_words(tmp_path: Path) -> None:
    assert how_it_ended(-signal.SIGSEGV) == "SIGSEGV" and how_it_ended(3) == "exit code 3"
    log = tmp_path / "log"
    log.write_bytes(b"first\n last \xff words \n\n")
    assert last_words(log) == ": last \N{REPLACEMENT CHARACTER} words"
    log.write_bytes(b"\n")
    assert last_words(log) == ""


def test_a_module_is_run_by_this_interpreter_whatever_lies_beside(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    done = subprocess.run(
        command("json.tool"), cwd=tmp_path, input=b"[1]", capture_output=True, check=True
    )
    assert b"1" in done.stdout


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"

"""Parent and child: what happens when the work is stopped or dies, and what the parent loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest

Child = Callable[[int], int | None]

_LINUX = Path("/proc/self/task").exists()
pytestmark = pytest.mark.skipif(not _LINUX, reason="finds the child through /proc")
_PATIENCE = 60.0


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return what `condition` returns once that is true."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise TimeoutError


def has_loaded(pid: int, library: str) -> bool:
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@contextmanager
def started(arguments: list[str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "qgraph", *arguments]
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def long_run(tmp_path: Path, mlp: Path, make_data: Callable[..., Path]) -> list[str]:
    """Return arguments of a command that works for tens of seconds."""
    data = make_data(tmp_path / "many.npz", samples=60_000)
    common = ["--samples", "60000", "--data", str(data), "-o", str(tmp_path / "s.json")]
    return ["sensitivity", "--fast", str(mlp), *common]


def stop(
    arguments: list[str], number: signal.Signals, cwd: Path, child: Child, *, to_child: bool = False
) -> tuple[int, str, str]:
    """Send a signal once the child runs onnxruntime; return exit code, stdout, stderr."""
    with started(arguments, cwd) as process:
        worker = wait_for(lambda: child(process.pid))
        wait_for(lambda: has_loaded(worker, "onnxruntime_pybind11_state"))
        time.sleep(0.5)
        os.kill(worker if to_child else process.pid, number)
        out, err = process.communicate(timeout=_PATIENCE)
        return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_exits_75_and_writes_nothing(
    long_run: list[str], number: signal.Signals, tmp_path: Path, child: Child
) -> None:
    code, _, err = stop(long_run, number, tmp_path, child)
    assert code == 75
    assert "interrupted" in err and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"mlp.onnx", "many.npz"}


def test_an_interrupt_of_the_whole_group_as_from_a_terminal_exits_75_once(
    long_run: list[str], tmp_path: Path, child: Child
) -> None:
    command = [sys.executable, "-m", "qgraph", *long_run]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        worker = wait_for(lambda: child(process.pid))
        wait_for(lambda: has_loaded(worker, "onnxruntime_pybind11_state"))
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 75
    assert err.count("interrupted") == 1 and "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_child_is_still_importing_exits_75(
    long_run: list[str], number: signal.Signals, tmp_path: Path, child: Child
) -> None:
    with started(long_run, tmp_path) as process:
        worker = wait_for(lambda: child(process.pid))
        wait_for(lambda: has_loaded(worker, "/numpy/"))
        process.send_signal(number)
        _, err = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 75
    assert "interrupted" in err and "Traceback" not in err


def test_a_command_leaves_nothing_among_temporary_files(mlp: Path, tmp_path: Path) -> None:
    """onnxruntime's telemetry would leave its session there."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "qgraph", "sensitivity", str(mlp), "--samples", "1"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run([*command, "-o", "s.json"], cwd=tmp_path, env=environment, check=True)
    assert list(temporary.iterdir()) == []


def test_a_command_under_nohup_outlives_its_terminal(mlp: Path, tmp_path: Path) -> None:
    script = 'trap "" HUP; exec "$0" -m qgraph sensitivity "$1" --samples 1 -o s.json'
    with subprocess.Popen(
        ["/bin/sh", "-c", script, sys.executable, str(mlp)], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(10):
            time.sleep(0.2)
            process.send_signal(signal.SIGHUP)
    assert process.returncode == 0 and (tmp_path / "s.json").is_file()


def test_a_full_disk_behind_the_standard_output_is_said(mlp: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qgraph", "sensitivity", str(mlp), "--samples", "1"]
    for extra in ([], ["--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*command, "-o", "s.json", *extra], cwd=tmp_path, stdout=full,
                stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 4 and "Traceback" not in done.stderr
        assert (tmp_path / "s.json").is_file()


def said_without_reader(arguments: list[str], gone: str) -> tuple[int, str]:
    """Return the exit code of a command one of whose streams nobody reads, and the other stream."""
    read, write = os.pipe()
    os.close(read)
    out, err = (write if name == gone else subprocess.PIPE for name in ("stdout", "stderr"))
    command = [sys.executable, "-m", "qgraph", *arguments]
    with subprocess.Popen(command, stdout=out, stderr=err, text=True) as process:
        os.close(write)
        left = process.stdout or process.stderr
        said = left.read() if left is not None else ""
    return process.returncode, said


@pytest.mark.parametrize("arguments", [["--help"], ["lint"]], ids=" ".join)
def test_a_reader_that_goes_away_ends_the_command_as_shells_expect(
    mlp: Path, arguments: list[str]
) -> None:
    arguments += [str(mlp), "--json"] if arguments == ["lint"] else []
    assert said_without_reader(arguments, "stdout") == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(("gone", "code"), [("stdout", 141), ("stderr", 0)])
def test_what_a_command_writes_is_complete_whoever_stops_reading(
    mlp: Path, tmp_path: Path, gone: str, code: int
) -> None:
    """Samples that are made up are warned of on stderr, before the report is written."""
    report = tmp_path / "s.json"
    arguments = ["sensitivity", str(mlp), "--samples", "1", "--fast", "-o", str(report)]
    found, said = said_without_reader(arguments, gone)
    assert found == code and "Error" not in said
    assert report.is_file()


def test_too_little_memory_to_run_is_a_limit(tmp_path: Path) -> None:
    """An output of half a terabyte, which no setting of the kernel grants."""
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> g (float[1,4] x) => (float[n] y) {'
        " s = Constant <value = int64[1] {137438953472}> () b = ConstantOfShape(s)"
        " w = Constant <value = float[4,1] {1, 2, 3, 4}> () a = MatMul(x, w) c = Squeeze(a)"
        " y = Add(b, c) }"
    )
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    command = [sys.executable, "-m", "qgraph", "sensitivity", "m.onnx", "--samples", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "the machine's memory is full" in done.stderr


def test_too_little_memory_to_load_is_said_and_ends(mlp: Path, tmp_path: Path) -> None:
    command = f"ulimit -v 100000; exec {sys.executable} -m qgraph lint {mlp}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (4, 5) and "memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_is_no_utf_8_is_bad_input(mlp: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff.onnx")
    odd.write_bytes(mlp.read_bytes())
    command = [sys.executable, "-m", "qgraph", "lint", str(odd)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "not UTF-8" in done.stderr


def test_names_are_utf_8_whatever_the_locale(mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "grün.onnx"
    path.write_bytes(mlp.read_bytes())
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "qgraph", "sensitivity", str(path), "--samples", "1"]
    done = subprocess.run(
        [*command, "-o", "s.json"], cwd=tmp_path, capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0
    assert (
        json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["model"]["path"] == path.name
    )


def test_a_child_that_dies_of_a_fault_is_reported_as_the_runtimes_death(
    long_run: list[str], tmp_path: Path, child: Child
) -> None:
    code, out, _ = stop([*long_run, "--json"], signal.SIGSEGV, tmp_path, child, to_child=True)
    assert code == 6
    error = json.loads(out)
    assert error["code"] == 6 and "SIGSEGV" in error["error"] and error["hint"]


def test_a_killed_child_is_reported_as_out_of_memory(
    long_run: list[str], tmp_path: Path, child: Child
) -> None:
    code, _, err = stop(long_run, signal.SIGKILL, tmp_path, child, to_child=True)
    assert code == 5
    assert "memory" in err and "Traceback" not in err


def test_a_killed_parent_takes_its_child_along(
    long_run: list[str], tmp_path: Path, child: Child
) -> None:
    with started(long_run, tmp_path) as process:
        worker = wait_for(lambda: child(process.pid))
        wait_for(lambda: has_loaded(worker, "onnxruntime_pybind11_state"))
        process.kill()
        wait_for(lambda: not has_loaded(worker, "onnxruntime_pybind11_state"))


def test_the_parent_loads_no_runtime(long_run: list[str], tmp_path: Path, child: Child) -> None:
    with started(long_run, tmp_path) as process:
        worker = wait_for(lambda: child(process.pid))
        wait_for(lambda: has_loaded(worker, "onnxruntime_pybind11_state"))
        for library in ("onnx", "torch", "numpy"):
            assert not has_loaded(process.pid, f"/{library}/")


def loaded_after(code: str, cwd: Path) -> set[str]:
    """Return the top-level modules a fresh interpreter holds after `code`."""
    script = f"import sys\n{code}\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=cwd
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_qgraph_loads_no_runtime(tmp_path: Path) -> None:
    loaded = loaded_after("import qgraph, qgraph._cli.supervise", tmp_path)
    assert "qgraph" in loaded
    assert not loaded & {"onnx", "onnxruntime", "torch", "numpy"}


def test_sensitivity_on_arrays_loads_no_torch(mlp: Path, data: Path, tmp_path: Path) -> None:
    code = f"import qgraph; qgraph.sensitivity({str(mlp)!r}, data=[{str(data)!r}])"
    loaded = loaded_after(code, tmp_path)
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "transformers"}


def test_python_m_qgraph_works_as_a_user_starts_it(shell: Callable[..., Any], mlp: Path) -> None:
    result = shell("sensitivity", mlp, "--json", "--quiet", cwd=mlp.parent)
    assert result.code == 0
    assert result.json["run"]["synthetic"] is True
    assert "made-up samples" in result.err


def test_an_error_passes_through_the_parent_unchanged(
    shell: Callable[..., Any], tmp_path: Path
) -> None:
    result = shell("sensitivity", "absent.onnx", cwd=tmp_path)
    assert result.code == 3
    assert result.err.startswith("Error: absent.onnx: no such ONNX model")

"""What a killed writer left goes with the next write; what a living one holds stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgraph._graph.io.files import publishing, write_bytes
from qgraph._graph.io.leftovers import clear_leftovers, temporary_file, temporary_folder

FILE = "temporary_file(folder)"
FOLDER = "temporary_folder(folder / 'out')"


@pytest.fixture(params=[FILE, FOLDER])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of writing."""
    code = (
        "import sys, pathlib\nfrom qgraph._graph.io.leftovers import *\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        f"with {request.param} as path:\n    print(path, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and Path(process.stdout.readline().strip()).exists()
        yield process


def test_a_living_writers_temporary_stays(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    (held,) = tmp_path.iterdir()
    write_bytes(tmp_path / "a", b"x")
    with publishing(tmp_path / "b", last="done") as folder:
        (folder / "done").touch()
    assert {path.name for path in tmp_path.iterdir()} == {held.name, "a", "b"}


def test_a_killed_writers_temporary_goes_although_its_process_was_not_waited_for(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    """A dead process keeps its number until then, as it does where nobody ever waits."""
    writer.send_signal(signal.SIGKILL)
    status = Path(f"/proc/{writer.pid}/stat")
    while status.read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    write_bytes(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_writers_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with temporary_file(tmp_path) as one, temporary_file(tmp_path) as two:
        clear_leftovers(tmp_path)
        assert one != two and one.exists() and two.exists()
    with temporary_folder(tmp_path / "x") as three:
        clear_leftovers(tmp_path)
        assert three.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_link_called_like_a_temporary_leads_nowhere(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".qgraph-tmp-1").symlink_to(precious)
    write_bytes(folder / "a", b"x")
    assert precious.read_text() == "as it was"

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.io.files import (
    publishing,
    require_file,
    require_writable_folder,
    sha256_of,
    write_bytes,
    write_named,
    write_text,
)

PROJECT = Path(__file__).parents[3]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the kernel refuse longer files, as a full disk would; Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(temporary: Path) -> str:
    temporary.write_bytes(b"half")
    raise KeyboardInterrupt


def test_written_bytes_are_read_back(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\0\xff")
    assert (tmp_path / "a").read_bytes() == b"\0\xff"


def test_text_is_written_as_utf8_without_translating_newlines(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "σ\r\n")
    assert (tmp_path / "a").read_bytes() == b"\xcf\x83\r\n"


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b" / "c" / "a", b"x")
    assert (tmp_path / "b" / "c" / "a").is_file()


def test_a_written_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_an_interrupt_in_the_middle_leaves_no_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_named(tmp_path, fail_halfway)
    assert names_in(tmp_path) == []


def test_a_full_disk_is_an_environment_fault(tmp_path: Path) -> None:
    with largest_file(1024), pytest.raises(EnvironmentFault, match="cannot write"):
        write_bytes(tmp_path / "a", bytes(4096))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with largest_file(1024), pytest.raises(EnvironmentFault):
        write_bytes(tmp_path / "a", bytes(4096))
    assert names_in(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_writing_over_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="this is a folder"):
        write_bytes(tmp_path / "a", b"x")
    assert names_in(tmp_path) == ["a"]


def test_a_name_too_long_for_the_file_system_is_an_environment_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault):
        write_bytes(tmp_path / ("a" * 300), b"x")
    assert names_in(tmp_path) == []


def test_a_file_where_the_output_folder_should_be_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(EnvironmentFault):
        require_writable_folder(tmp_path / "a")


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "a").symlink_to("target")
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "target").read_bytes() == b"mine"
    assert not (tmp_path / "a").is_symlink()


WRITER = """
import sys
from pathlib import Path
from qgraph._graph.io.files import write_bytes
target = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in b"ab":
        write_bytes(target, bytes([letter]) * (1 << 20))
"""


def test_a_kill_at_any_instant_leaves_the_old_file_or_the_new_one_whole(tmp_path: Path) -> None:
    target, rng = tmp_path / "a", np.random.default_rng(0)
    whole = {b"a" * (1 << 20), b"b" * (1 << 20)}
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while not target.exists():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        assert target.read_bytes() in whole


def test_a_new_folder_appears_with_all_its_entries(tmp_path: Path) -> None:
    with publishing(tmp_path / "out", last="done") as folder:
        (folder / "a").write_text("1")
        (folder / "done").write_text("2")
        assert not (tmp_path / "out").exists()
    assert names_in(tmp_path / "out") == ["a", "done"]


def publish_half(folder: Path) -> None:
    with publishing(folder, last="done") as temporary:
        (temporary / "done").write_text("new")
        raise ZeroDivisionError


def test_a_failure_while_a_folder_is_filled_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        publish_half(tmp_path / "out")
    assert names_in(tmp_path) == []


def test_a_failure_while_a_folder_is_filled_leaves_the_old_one_alone(tmp_path: Path) -> None:
    with publishing(tmp_path / "out", last="done") as folder:
        (folder / "done").write_text("old")
    with pytest.raises(ZeroDivisionError):
        publish_half(tmp_path / "out")
    assert (tmp_path / "out" / "done").read_text() == "old"


def test_entries_of_an_existing_folder_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "out" / "part").mkdir(parents=True)
    (tmp_path / "out" / "part" / "stale").touch()
    (tmp_path / "out" / "mine").touch()
    with publishing(tmp_path / "out", last="done") as folder:
        (folder / "part").mkdir()
        (folder / "done").touch()
    assert names_in(tmp_path / "out") == ["done", "mine", "part"]
    assert names_in(tmp_path / "out" / "part") == []


def test_a_full_disk_while_a_folder_is_filled_is_an_environment_fault(tmp_path: Path) -> None:
    with (
        largest_file(1024),
        pytest.raises(EnvironmentFault),
        publishing(tmp_path / "out", last="done") as folder,
    ):
        (folder / "a").write_bytes(bytes(4096))
    assert names_in(tmp_path) == []


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # the test vector of FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "a") == expected


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such thing"):
        require_file(tmp_path / "a", "thing")


def test_a_path_no_file_can_have_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such thing"):
        require_file(tmp_path / ("a" * 300), "thing")


def test_a_folder_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a folder, expected: thing") as caught:
        require_file(tmp_path, "thing")
    assert caught.value.hint == "Give a file in it."


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="found no regular file"):
        require_file(tmp_path / "pipe", "thing")


def test_a_folder_may_be_the_one_we_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with publishing(Path(), last="b") as folder:
        for name in "ab":
            (folder / name).write_text(name)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["a", "b"]

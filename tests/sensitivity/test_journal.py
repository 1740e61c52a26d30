"""The journal keeps what is finished, for the run it belongs to and for no other."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._sensitivity.scoring.journal import NOTE, folder_of, open_journal, remove_journal

RUN = {"model": "abc", "samples": 4, "scheme": {"name": "int8"}}
WRITER = """
import sys
from pathlib import Path
from qgraph._sensitivity.scoring.journal import open_journal
journal = open_journal(Path(sys.argv[1]), {"model": "abc"})
for number in range(1000000):
    journal.record(f"unit {number}", {"mse": number / 3})
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.json.journal"


def test_entries_come_back_in_the_order_they_were_recorded(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("b", {"mse": 0.1})
        journal.record("a", [1, None, "x"])
    with open_journal(path, RUN) as journal:
        assert list(journal.entries.items()) == [("b", {"mse": 0.1}), ("a", [1, None, "x"])]


def _fail_after(path: Path, key: str) -> None:
    with open_journal(path, RUN) as journal:
        journal.record(key, 1)
        raise UsageError("refused")


def test_a_run_that_fails_before_it_finished_anything_leaves_no_file(path: Path) -> None:
    with pytest.raises(UsageError, match="refused"):
        _fail_after(path, f"{NOTE} time of a forward")
    assert list(path.parent.iterdir()) == []


def test_a_run_that_fails_later_keeps_what_it_finished(path: Path) -> None:
    with pytest.raises(UsageError, match="refused"):
        _fail_after(path, "unit")
    with open_journal(path, RUN) as journal:
        assert journal.entries == {"unit": 1}


def test_numbers_come_back_bit_for_bit(path: Path) -> None:
    values = [1e-300, 0.1 + 0.2, -0.0, 3.0000000000000004]
    with open_journal(path, RUN) as journal:
        journal.record("k", values)
    with open_journal(path, RUN) as journal:
        assert [value.hex() for value in journal.entries["k"]] == [v.hex() for v in values]


def test_a_unit_recorded_again_replaces_its_entry(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("k", 1)
        journal.record("k", 2)
    with open_journal(path, RUN) as journal:
        assert journal.entries == {"k": 2}


def test_nan_is_not_recorded(path: Path) -> None:
    with open_journal(path, RUN) as journal, pytest.raises(ValueError, match="JSON"):
        journal.record("k", float("nan"))


def test_a_journal_of_another_run_is_refused_with_the_fields_that_differ(path: Path) -> None:
    begun = {**RUN, "samples": ["a", "b"], "ranges": "0" * 64, "direction": "solo", "packages": {}}
    with open_journal(path, begun) as journal:
        journal.record("k", 1)
    asked = {**begun, "samples": ["a"], "ranges": "1" * 64, "direction": "both", "seed": 1}
    with pytest.raises(UsageError) as caught:
        open_journal(path, asked | {"packages": {"onnx": "2.0"}})
    assert caught.value.message == (
        "1 finished unit is kept here of a run with other options: direction (solo then, both now),"
        " onnx (none then, 2.0 now), samples (2 then, 1 now), seed (none then, 1 now)"
    )
    assert "--fresh" in caught.value.hint
    with pytest.raises(UsageError, match=r"model \(others then\)"):
        open_journal(path, begun | {"model": "f" * 64})


def test_a_journal_without_a_finished_unit_is_in_nobodys_way(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record(f"{NOTE}seconds", 1.5)
        (journal.folder / "state").write_text("of the other run")
    with open_journal(path, {"other": 1}) as journal:
        assert journal.entries == {} and not (folder_of(path) / "state").exists()
    with open_journal(path, {"other": 1}) as journal:
        assert journal.entries == {}


def test_a_refused_journal_is_left_as_it_was(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("k", 1)
    with pytest.raises(UsageError):
        open_journal(path, {})
    with open_journal(path, RUN) as journal:
        assert journal.entries == {"k": 1}


def test_fresh_forgets_an_older_journal_whatever_it_is(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("k", 1)
    with open_journal(path, {"other": 1}, fresh=True) as journal:
        assert journal.entries == {}
    path.write_bytes(b"no journal at all")
    open_journal(path, RUN, fresh=True).close()


def test_two_runs_cannot_use_one_journal(path: Path) -> None:
    with open_journal(path, RUN), pytest.raises(EnvironmentFault, match="another run"):
        open_journal(path, RUN)
    open_journal(path, RUN).close()


def test_fresh_does_not_take_a_journal_from_the_run_that_works_on_it(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("k", 1)
        with pytest.raises(EnvironmentFault):
            open_journal(path, RUN, fresh=True)
    with open_journal(path, RUN) as journal:
        assert journal.entries == {"k": 1}


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\0" + b"\xff" * 200])
def test_a_damaged_journal_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        open_journal(path, RUN)


def test_a_truncated_journal_is_refused(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        for number in range(200):
            journal.record(str(number), "x" * 100)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UsageError):
        open_journal(path, RUN)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_database_of_something_else_is_refused_and_not_touched(
    path: Path, *, fresh: bool
) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE customers (name TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="a database, but no journal"):
        open_journal(path, RUN, fresh=fresh)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_database_whose_program_was_killed_is_refused_and_kept(
    path: Path, *, fresh: bool
) -> None:
    """All it holds is in its log."""
    source = path.with_name("other.db")
    other = sqlite3.connect(source)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("CREATE TABLE customers (name TEXT)")
    other.commit()
    for end in ("", "-wal"):
        shutil.copy(f"{source}{end}", f"{path}{end}")
    other.close()
    with pytest.raises(UsageError, match="a database, but no journal"):
        open_journal(path, RUN, fresh=fresh)
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


def test_an_entry_that_is_no_json_is_damage(path: Path) -> None:
    open_journal(path, RUN).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO entries (key, payload) VALUES ('k', '{')")
    connection.close()
    with pytest.raises(UsageError, match="damaged"):
        open_journal(path, RUN)


def test_a_link_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    open_journal(target, RUN).close()
    path.symlink_to(target)
    with pytest.raises(UsageError, match="link"):
        open_journal(path, RUN)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError):
        open_journal(tmp_path / "folder", RUN)


def test_a_removed_journal_leaves_nothing(path: Path) -> None:
    with open_journal(path, RUN) as journal:
        journal.record("k", 1)
    remove_journal(path)
    assert list(path.parent.iterdir()) == []


def test_everything_that_was_recorded_before_a_kill_is_there(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    seen = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    seen += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    with open_journal(path, {"model": "abc"}) as journal:
        numbers = [int(key.removeprefix("unit ")) for key in journal.entries]
    assert numbers == list(range(len(numbers)))
    # the kill may fall between a commit and the line that tells of it
    assert len(seen) <= len(numbers) <= len(seen) + 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make the kernel refuse longer files, as a full disk would; Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fault(path: Path, size: int) -> str:
    """Return what is said where the disk is full; the error, which holds the file, is let go of."""
    with largest_file(size):
        try:
            with open_journal(path, {"a": 1}) as journal:
                journal.record("l", "x" * 20000)
        except EnvironmentFault as error:
            return str(error)
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize("size", [0, 100, 4096, 8192])
def test_a_full_disk_while_the_journal_opens_says_nothing_against_it(path: Path, size: int) -> None:
    with open_journal(path, {"a": 1}) as journal:
        journal.record("k", 1)
    message = fault(path, size)
    assert "cannot use the journal" in message
    assert "--fresh" not in message
    assert "not lost" in message
    with open_journal(path, {"a": 1}) as journal:
        assert journal.entries["k"] == 1


@pytest.mark.parametrize("size", [0, 100, 4096, 8192])
def test_a_full_disk_while_a_journal_is_made_leaves_one_that_can_be_opened(
    path: Path, size: int
) -> None:
    assert "--fresh" not in fault(path, size)
    with open_journal(path, {"a": 1}) as journal:
        assert dict(journal.entries) == {}


def change_schema(path: Path, *statements: str) -> None:
    open_journal(path, {"a": 1}).close()
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


ENDLESS = "AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.mark.parametrize(
    "statements",
    [
        ("DROP TABLE entries", f"CREATE VIEW entries {ENDLESS} i number, i key, 1 payload FROM n"),
        ("DROP TABLE run", f"CREATE VIEW run {ENDLESS} max(i) fingerprint FROM n"),
        ("CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",),
        ("DROP TABLE entries",),
        ("ALTER TABLE entries ADD COLUMN more",),
        ("CREATE TABLE more (a)",),
    ],
)  # fmt: skip
def test_a_journal_with_other_tables_is_refused_at_once(
    path: Path, statements: tuple[str, ...]
) -> None:
    change_schema(path, *statements)
    with pytest.raises(UsageError, match="its tables are not those of one"):
        open_journal(path, {"a": 1})


def test_an_entry_damaged_later_is_damage_and_no_defect(path: Path) -> None:
    with open_journal(path, {"a": 1}) as journal:
        for key in range(300):
            journal.record(str(key), "x" * 500)
    content = bytearray(path.read_bytes())
    content[4096 * 8 : 4096 * 12] = b"\xff" * (4096 * 4)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        open_journal(path, {"a": 1})

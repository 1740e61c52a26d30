"""What was scored so far, one row per finished unit of work, safe against kill -9.

A journal belongs to one question: the fingerprint names model, data, options and versions, and a
journal with another fingerprint is refused, never silently begun anew, unless it holds no finished
unit. Any engine can keep one: a key is text, a payload a JSON value.

sqlite holds it (write-ahead log, synchronous FULL): a row is on the disk before the next unit
begins, and the lock frees itself when the process ends.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.io.files import is_there, require_writable_folder
from qgraph._sensitivity.scoring.fingerprint import Fingerprint, differing
from qgraph._sensitivity.scoring.journal_rows import FRESH, Entries, Named, damaged, explained

_APPLICATION_ID = 0x71677261
_TABLES = {
    "run": "CREATE TABLE run (fingerprint TEXT NOT NULL)",
    "entries": "CREATE TABLE entries"
    " (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL)",
}
"""All that a journal consists of. A view or a trigger of that name could compute without end."""
NOTE = "note:"
"""Begins the key of an entry that is no finished unit of work."""


class Journal:
    """An open journal: `entries` are the finished units, key → payload, read when asked for."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.entries: Mapping[str, Any] = Entries(path, connection)
        try:
            for _ in self.entries.values():  # damage shows now, not when the entry is asked for
                pass
        except KeyError as error:  # a key that is listed, and is not there
            raise damaged(path, error) from error

    def record(self, key: str, payload: Any) -> None:
        """Write one finished unit; it is on the disk when this returns.

        Raises:
            EnvironmentFault: the disk is full or fails.
        """
        text = json.dumps(payload, allow_nan=False)
        with explained(self.path):
            self._connection.execute(
                "INSERT OR REPLACE INTO entries (key, payload) VALUES (?, ?)", (key, text)
            )

    @property
    def folder(self) -> Path:
        """Return the folder beside the journal for what is too large for it; made when asked."""
        return require_writable_folder(folder_of(self.path))

    def close(self) -> None:
        """Close the file; what was recorded stays."""
        self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file. Of a run that failed before it finished anything, nothing is left."""
        if kind is not None and self._is_empty():
            with contextlib.suppress(OSError, sqlite3.Error):
                self._connection.execute("PRAGMA journal_mode = DELETE")  # removes its log
                self.path.unlink()  # while it is locked: no other run has begun with it
        self.close()

    def _is_empty(self) -> bool:
        finished = (key for key in self.entries if not key.startswith(NOTE))
        return next(finished, None) is None and not folder_of(self.path).exists()


class JournalPart(Journal):
    """Units of a second piece of work in the same journal, under keys of their own."""

    def __init__(self, whole: Journal, name: str) -> None:
        self.path, self._whole, self._name = whole.path, whole, name
        self.entries = Named(whole.entries, f"{name}/")

    def record(self, key: str, payload: Any) -> None:
        """Write one finished unit; it is on the disk when this returns."""
        self._whole.record(f"{self._name}/{key}", payload)

    def close(self) -> None:
        """Do nothing: the journal is closed by who opened it."""

    def _is_empty(self) -> bool:
        return False


def open_journal(path: Path, fingerprint: Fingerprint, *, fresh: bool = False) -> Journal:
    """Return the journal in `path`, made if there is none; `fresh` forgets an older one.

    Raises:
        UsageError: the file is no journal, is damaged, or belongs to another run; the message
            names the fields that differ.
        EnvironmentFault: another run works on it, the disk is full or fails, or the folder cannot
            be written. Nothing is wrong with the journal then.
    """
    require_writable_folder(path.parent)
    if path.is_symlink():
        raise UsageError("the journal is a link, expected a file", where=str(path))
    _require_ours(path)
    if fresh and is_there(path):
        require_free(path)
        _remove(path)
    connection = _connect(path)
    try:
        with explained(path):
            _prepare(connection, path, fingerprint)
        return Journal(path, connection)
    except BaseException:
        connection.close()
        raise


def require_free(path: Path) -> None:
    """Check that no other run works with the journal in `path`, if there is one.

    Raises:
        EnvironmentFault: one does.
    """
    if is_there(path) and not path.is_symlink():
        with contextlib.suppress(UsageError), closing(_connect(path)):  # damage is no matter yet
            pass


def _require_ours(path: Path) -> None:
    """Check that the file is no database of another program, without touching it."""
    if not path.is_file():
        return
    # a program that was killed may have left all it wrote in the log, which immutable passes over
    logged = is_there(path.with_name(f"{path.name}-wal"))
    asked = f"{path.absolute().as_uri()}?mode=ro{'' if logged else '&immutable=1'}"
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(asked, uri=True)) as found:
        (application,) = found.execute("PRAGMA application_id").fetchone()
        (tables,) = found.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION_ID:
            raise UsageError("a database, but no journal of qgraph's", where=str(path))


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the file for itself."""
    if is_there(path) and not path.is_file():
        raise UsageError("not a regular file, expected a journal", where=str(path))
    with explained(path):
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        with explained(path):
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, fingerprint: Fingerprint) -> None:
    """Make the tables of a new journal, or check that an old one belongs to this run."""
    schema = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex%'"
    tables = dict(connection.execute(schema).fetchmany(len(_TABLES) + 1))
    wanted = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
    if not tables:
        _begin(connection, path, wanted)
        return
    if tables != _TABLES:
        raise UsageError(
            "not a journal, or damaged: its tables are not those of one",
            where=str(path),
            hint=FRESH,
        )
    (found,) = map(json.loads, connection.execute("SELECT fingerprint FROM run").fetchone())
    if found == wanted:
        return
    units = f"FROM entries WHERE key NOT LIKE '{NOTE}%'"
    (done,) = connection.execute(f"SELECT count(*) {units}").fetchone()
    if not done:
        _begin(connection, path, wanted)
        return
    raise UsageError(
        f"{done} finished {'unit is' if done == 1 else 'units are'} kept here of a run with other"
        f" options: {', '.join(differing(found, wanted))}",
        where=str(path),
        hint="Give the earlier options to go on with it, --fresh to forget it, or another -o.",
    )


def _begin(connection: sqlite3.Connection, path: Path, fingerprint: Fingerprint) -> None:
    """Make the tables of a journal without entries, in place of those that may be there."""
    # of a journal that was deleted by hand, or of another run
    shutil.rmtree(folder_of(path), ignore_errors=True)
    connection.execute("BEGIN")
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    for name, statement in _TABLES.items():
        connection.execute(f"DROP TABLE IF EXISTS {name}")
        connection.execute(statement)
    connection.execute("INSERT INTO run VALUES (?)", (json.dumps(fingerprint, sort_keys=True),))
    connection.execute("COMMIT")


def remove_journal(path: Path) -> None:
    """Remove a journal that no run has open, and that of the search before it, if they are there.

    Raises:
        EnvironmentFault: it cannot be removed.
    """
    for file in (path, journal_of_search(path)):
        _remove(file)


def _remove(path: Path) -> None:
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot remove the journal: {error.strerror}", where=str(path)
        ) from error
    shutil.rmtree(folder_of(path), ignore_errors=True)


def journal_of_search(path: Path) -> Path:
    """Return where the search for ranges keeps what it measured before the run of a journal."""
    return path.with_name(f"{path.name}.search")


def folder_of(path: Path) -> Path:
    """Return where lies what is too large for the journal in `path`; it may not be there."""
    return path.with_name(f"{path.name}.states")

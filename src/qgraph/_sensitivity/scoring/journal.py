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
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from qgraph._graph.errors import EnvironmentFault, UsageError
from qgraph._graph.io.files import is_there, require_writable_folder
from qgraph._sensitivity.scoring.fingerprint import Fingerprint, differing

_APPLICATION_ID = 0x71677261
_TABLES = {
    "run": "CREATE TABLE run (fingerprint TEXT NOT NULL)",
    "entries": "CREATE TABLE entries"
    " (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL)",
}
"""All that a journal consists of. A view or a trigger of that name could compute without end."""
NOTE = "note:"
"""Begins the key of an entry that is no finished unit of work."""
_FRESH = "Go on with the same options, or start anew with --fresh."


class Journal:
    """An open journal: `entries` are the finished units, key → payload, read when asked for."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self.entries: Mapping[str, Any] = _Entries(path, connection)
        try:
            for _ in self.entries.values():  # damage shows now, not when the entry is asked for
                pass
        except KeyError as error:  # a key that is listed, and is not there
            raise _damaged(path, error) from error

    def record(self, key: str, payload: Any) -> None:
        """Write one finished unit; it is on the disk when this returns.

        Raises:
            EnvironmentFault: the disk is full or fails.
        """
        text = json.dumps(payload, allow_nan=False)
        with _explained(self.path):
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        self.entries = _Named(whole.entries, f"{name}/")

    def record(self, key: str, payload: Any) -> None:
        """Write one finished unit; it is on the disk when this returns."""
        self._whole.record(f"{self._name}/{key}", payload)

    def close(self) -> None:
        """Do nothing: the journal is closed by who opened it."""

    def _is_empty(self) -> bool:
        return False


class _Named(Mapping[str, Any]):
    """The entries whose keys begin with `prefix`, without it."""

    def __init__(self, entries: Mapping[str, Any], prefix: str) -> None:
        self._entries, self._prefix = entries, prefix

    def __getitem__(self, key: str) -> Any:
        return self._entries[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (k.removeprefix(self._prefix) for k in self._entries if k.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Entries(Mapping[str, Any]):
    """The rows of a journal, in the order they were recorded. None is held in memory."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection

    def __getitem__(self, key: str) -> Any:
        rows = self._ask("SELECT payload FROM entries WHERE key = ?", key)
        if not rows:
            raise KeyError(key)
        with _explained(self._path):
            return json.loads(rows[0][0])

    def __iter__(self) -> Iterator[str]:
        return iter([key for (key,) in self._ask("SELECT key FROM entries ORDER BY number")])

    def __len__(self) -> int:
        return int(self._ask("SELECT count(*) FROM entries")[0][0])

    def _ask(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with _explained(self._path):
            return self._connection.execute(query, values).fetchall()


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
    if fresh and is_there(path):
        require_free(path)
        remove_journal(path)
    connection = _connect(path)
    try:
        with _explained(path):
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


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the file for itself."""
    if is_there(path) and not path.is_file():
        raise UsageError("not a regular file, expected a journal", where=str(path))
    with _explained(path):
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        with _explained(path):
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
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    schema = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_autoindex%'"
    tables = dict(connection.execute(schema).fetchmany(len(_TABLES) + 1))
    wanted = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
    if not tables:
        _begin(connection, path, wanted)
        return
    if application != _APPLICATION_ID:
        raise UsageError("a database, but no journal of qgraph's", where=str(path))
    if tables != _TABLES:
        raise UsageError(
            "not a journal, or damaged: its tables are not those of one",
            where=str(path),
            hint=_FRESH,
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


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what sqlite raises into an error that says whether the journal or the machine fails."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        raise (_unusable if code in _MACHINE else _damaged)(path, error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error


_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_MACHINE = _BUSY | {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_INTERRUPT),
}
"""Primary result codes that say nothing against the file."""


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"not a journal, or damaged: {error}", where=str(path), hint=_FRESH)


def _unusable(path: Path, error: sqlite3.Error) -> EnvironmentFault:
    if error.sqlite_errorcode & 0xFF in _BUSY:
        return EnvironmentFault(
            "another run is working with this journal",
            where=str(path),
            hint="Wait for it, or choose another -o.",
        )
    return EnvironmentFault(
        f"cannot use the journal: {error}",
        where=str(path),
        hint="What it holds is not lost. Free some space, look at the disk, or choose another -o;"
        " then run the same command again.",
    )


def remove_journal(path: Path) -> None:
    """Remove a journal that no run has open, and that of the search before it, if they are there.

    Raises:
        EnvironmentFault: it cannot be removed.
    """
    try:
        for file in (path, journal_of_search(path)):
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
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

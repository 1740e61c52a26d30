"""The rows of a journal as a mapping, and what sqlite's errors say of the file or the machine."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qgraph._graph.errors import EnvironmentFault, UsageError

FRESH = "Go on with the same options, or start anew with --fresh."


class Named(Mapping[str, Any]):
    """The entries whose keys begin with `prefix`, without it."""

    def __init__(self, entries: Mapping[str, Any], prefix: str) -> None:
        self._entries, self._prefix = entries, prefix

    def __getitem__(self, key: str) -> Any:
        return self._entries[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (k.removeprefix(self._prefix) for k in self._entries if k.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Entries(Mapping[str, Any]):
    """The rows of a journal, in the order they were recorded. None is held in memory."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection

    def __getitem__(self, key: str) -> Any:
        rows = self._ask("SELECT payload FROM entries WHERE key = ?", key)
        if not rows:
            raise KeyError(key)
        with explained(self._path):
            return json.loads(rows[0][0])

    def __iter__(self) -> Iterator[str]:
        return iter([key for (key,) in self._ask("SELECT key FROM entries ORDER BY number")])

    def __len__(self) -> int:
        return int(self._ask("SELECT count(*) FROM entries")[0][0])

    def _ask(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with explained(self._path):
            return self._connection.execute(query, values).fetchall()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what sqlite raises into an error that says whether the journal or the machine fails."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        raise (_unusable if code in _MACHINE else damaged)(path, error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, error) from error


_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_MACHINE = _BUSY | {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_INTERRUPT),
}
"""Primary result codes that say nothing against the file."""


def damaged(path: Path, error: Exception) -> UsageError:
    """Return what a file that cannot be read as a journal is refused with."""
    return UsageError(f"not a journal, or damaged: {error}", where=str(path), hint=FRESH)


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

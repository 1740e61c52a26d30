"""Every error a user can meet, with its exit code.

    QGraphError
    ├── UsageError          2   options, profiles, recipes: what the user wrote; a document that is
    │                           another kind's or another model's
    ├── InputError          3   a file that is not there; a model or data that cannot be used
    ├── EnvironmentFault    4   provider, package, disk space, permission
    ├── LimitError          5   memory, time or size beyond what was allowed
    ├── RuntimeDiedError    6   the child process that ran the model was killed
    ├── QualityGateError    7   a result is worse than the gate allows
    └── InterruptedRun     75   stopped on request; the same command goes on

A message says what was found, what was expected and what to do about it. Errors raised here are
shown without a traceback; anything else is a defect of qgraph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar


def spelled(where: str) -> str:
    """Return what a message calls `where`: `.`, which reads like a full stop, by its whole path."""
    return str(Path.cwd()) if where == str(Path()) else where


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the question after a name that is not among `known`, or nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"Did you mean {near[0]}?" if near else ""


class QGraphError(Exception):
    """Base of all errors shown to the user.

    `where` names the file, node or tensor concerned; `hint` says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = spelled(where)
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n{self.hint}" if self.hint else head

    def as_dict(self) -> dict[str, str | int]:
        """Return the error as `--json` prints it."""
        return {
            "code": self.exit_code,
            "error": self.message,
            "where": self.where,
            "hint": self.hint,
        }


class UsageError(QGraphError):
    """An option, a profile or a recipe is wrong."""

    exit_code = 2


class InputError(QGraphError):
    """A model or data file cannot be used."""

    exit_code = 3


class EnvironmentFault(QGraphError):  # noqa: N818 - EnvironmentError is Python's own
    """The machine lacks something: a provider, a package, space, a permission."""

    exit_code = 4


class LimitError(QGraphError):
    """A limit on memory, time or size was reached."""

    exit_code = 5


class RuntimeDiedError(QGraphError):
    """The process that ran the model crashed."""

    exit_code = 6


class QualityGateError(QGraphError):
    """A result is worse than the user allows."""

    exit_code = 7


class InterruptedRun(QGraphError):  # noqa: N818 - an interruption is no error of anyone's
    """The run was stopped on request. The same call continues it."""

    exit_code = 75


def first_line(error: Exception) -> str:
    """Return what a message says of another library's error; its kind, where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def install(extra: str) -> str:
    """Return how an extra is installed, from a package index or in a clone."""
    return f"pip install 'qgraph[{extra}]'; in a clone, pip install '.[{extra}]'"


@contextmanager
def loading(extra: str, what: str) -> Iterator[None]:
    """Say how an extra is installed where its packages, which `what` needs, cannot be imported.

    Raises:
        EnvironmentFault: one is missing or broken.
    """
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:  # a broken binary raises the last two
        raise EnvironmentFault(
            f"{what} needs packages that are missing or broken: {error}", hint=install(extra)
        ) from error

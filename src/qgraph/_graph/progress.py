"""How long work says how far it is; the face decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the name of the work, units done, and units in all."""

    def __call__(self, description: str, done: int, total: int) -> None: ...


def silent(description: str, done: int, total: int) -> None:
    """Report nothing."""

"""Regular expressions that users and profiles give, looked for in names of nodes.

Python's own engine takes time exponential in the length of a name for some expressions, and cannot
be stopped. `regex` reads the same language and takes a time limit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import regex

from qgraph._graph.errors import LimitError, UsageError
from qgraph._graph.limits import Limit

_LONGEST = 10_000


def searched(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """Return the names that `pattern` is found in.

    Raises:
        UsageError: it is no regular expression.
        LimitError: looking for it took longer than `Limit.PATTERN_SECONDS`.
    """
    return _matching(_compiled(pattern, where).search, pattern, names, where)


def matched(pattern: str, names: Sequence[str], where: str) -> list[str]:
    """Return the names that `pattern` fits as a whole; raises as `searched` does."""
    return _matching(_compiled(pattern, where).fullmatch, pattern, names, where)


def _compiled(pattern: str, where: str) -> Any:
    if len(pattern) > _LONGEST:
        raise UsageError(f"a regular expression of more than {_LONGEST} characters", where=where)
    try:
        return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}", where=where) from error


def _matching(find: Any, pattern: str, names: Sequence[str], where: str) -> list[str]:
    # a name at a time, so that most have none left to take
    left, found = Limit.PATTERN_SECONDS.get(), []
    for name in names:
        began = time.monotonic()
        try:
            if find(name, timeout=max(left, 1e-3)):
                found.append(name)
        except TimeoutError as error:
            raise LimitError(
                f"looking for {pattern!r} takes too long, at {name[:80]!r}",
                where=where,
                hint="Write the expression without repetitions inside repetitions."
                f" {Limit.PATTERN_SECONDS.hint}",
            ) from error
        left -= time.monotonic() - began
    return found

"""What a process of a node keeps for its next task: the last that it opened, and no other."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_kept: dict[Hashable, Any] = {}


def kept(key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives for this key; a process that is new, or did something else last,
    makes it.
    """
    if key not in _kept:
        _kept.clear()  # the memory of two would not be there
        _kept[key] = make()
    found: T = _kept[key]
    return found

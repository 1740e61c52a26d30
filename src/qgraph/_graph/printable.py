"""Text from files, made fit to be shown: names may hold anything."""

from __future__ import annotations

from typing import Any


def printable(text: str) -> str:
    """Return `text` with control characters escaped; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def all_printable(value: Any) -> Any:
    """Return a value with all text in it printable, through mappings and sequences; what says it is
    markup already stays.
    """
    if isinstance(value, str):
        return value if hasattr(value, "__html__") else printable(value)
    if isinstance(value, dict):
        return {all_printable(key): all_printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_printable(item) for item in value]
    return value

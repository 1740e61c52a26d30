"""Text from files, made fit to be shown: names may hold anything."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with control characters escaped; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)

"""What names a run or an entry of a journal, and in what two runs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Fingerprint = Mapping[str, Any]
"""JSON values by name; two runs may share a journal if all are equal."""
_LONGEST = 30
"""Characters of a value that is worth showing: digests are longer."""


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differing(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    """Return what differs, in words: digests and long values are only said to be others."""
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if "samples" in names and "ranges" in names:
        names.remove("ranges")  # they follow from the samples
    return [_then_and_now(name, found.get(name), wanted.get(name)) for name in names]


def _then_and_now(name: str, then: Any, now: Any) -> str:
    if isinstance(then, list) and isinstance(now, list) and len(then) != len(now):
        return f"{name} ({len(then)} then, {len(now)} now)"
    if isinstance(then, dict) and isinstance(now, dict):
        return ", ".join(differing(then, now))
    texts = ["none" if value is None else str(value) for value in (then, now)]
    if any(len(text) > _LONGEST or not isinstance(value, str | int | float | None)
           for text, value in zip(texts, (then, now), strict=True)):  # fmt: skip
        return f"{name} (others then)"
    return f"{name} ({texts[0]} then, {texts[1]} now)"

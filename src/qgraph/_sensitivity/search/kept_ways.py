"""What ways measured, in a journal: a search that was killed goes on from there.

An entry is one inquiry, by the hash of all that is asked, and the samples it was answered on,
whoever measured them. So another choice on the way, as of another machine, finds no entry and is
measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from qgraph._graph.errors import UsageError
from qgraph._quantize.learnt import Way
from qgraph._sensitivity.scoring.fingerprint import digest_of
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.search.inquiry import Ask, Inquiry, Told

_SECONDS = 1.0
"""How much work may be lost: writing down takes some milliseconds."""
_WAY = TypeAdapter(Way)


class KeptWays:
    """Answers inquiries: what the journal lacks `ask` has measured.

    Raises:
        UsageError: the journal is damaged.
    """

    def __init__(self, ask: Ask, journal: Journal) -> None:
        self._ask, self._journal = ask, journal

    def __call__(self, asked: Inquiry) -> Iterator[Told]:
        """Yield what is asked, sample by sample or of several at once."""
        key = _key_of(asked)
        known = self._known(key, len(asked.questions))
        yield {number: known[number] for number in asked.numbers if number in known}
        left = [number for number in asked.numbers if number not in known]
        if not left:
            return
        written = time.monotonic()
        try:
            for told in self._ask(replace(asked, numbers=left)):
                known |= told
                yield told
                if time.monotonic() - written >= _SECONDS:
                    self._journal.record(key, _entry(key, known))
                    written = time.monotonic()
        finally:  # also of what is broken off
            if known:
                self._journal.record(key, _entry(key, known))

    def _known(self, key: str, questions: int) -> dict[int, Any]:
        entry = self._journal.entries.get(key)
        try:
            return {} if entry is None else _unchanged(key, entry, questions)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "the journal is damaged: an entry is not what a way measured",
                where=str(self._journal.path),
                hint="Start anew with --fresh.",
            ) from error


def _key_of(asked: Inquiry) -> str:
    """Return the hash of all that is asked but for the samples."""
    return digest_of(
        [
            _WAY.dump_python(asked.way, mode="json"),
            [dict(each) for each in asked.clips],
            [sorted(each) for each in asked.questions],
            [dict(each) for each in asked.rotated],
        ]
    )


def _entry(key: str, known: Told) -> Mapping[str, Any]:
    told = {  # infinity is no JSON
        str(number): [[v if math.isfinite(v) else None for v in pair] for pair in row]
        for number, row in known.items()
    }
    # SQLite has no checksum, and a changed figure is a figure
    return {"told": told, "sha256": digest_of([key, told])}


def _unchanged(key: str, entry: Any, questions: int) -> dict[int, Any]:
    """Return an entry's rows, ValueError where it is not what was written."""
    told = entry["told"]
    if entry["sha256"] != digest_of([key, told]):
        raise ValueError("it says something else than what was written")
    if any(len(row) != questions for row in told.values()):
        raise ValueError("it answers other questions")
    return {
        int(number): [tuple(math.inf if v is None else v for v in pair) for pair in row]
        for number, row in told.items()
    }

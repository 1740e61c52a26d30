"""What variants show on samples, in a journal: an evaluation that was killed goes on from there.

An entry is some samples of one variant, whoever looked at them and in which order. Variants are
known by their content, so one more may join those that were looked at before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qgraph._evaluation.observing import VariantObservations
from qgraph._evaluation.variants import InspectedModel
from qgraph._exporters.tasks import Observation
from qgraph._graph.errors import QGraphError, UsageError
from qgraph._sensitivity.scoring.fingerprint import digest_of
from qgraph._sensitivity.scoring.journal import Journal

_SECONDS = 1.0
"""How much work may be lost: writing down takes some milliseconds."""


@dataclass(slots=True)
class _Shown:
    """`seen`: sample number → what the variant shows; the rest as of `VariantObservations`."""

    seen: dict[int, Observation] = field(default_factory=dict)
    placement: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)


class KeptObservations:
    """What `models`, the float one first, show on `count` samples, as far as is known. `refused`:
    why others cannot be looked at, by name. Without a journal it lasts as long as the process.

    Raises:
        UsageError: the journal is damaged.
    """

    def __init__(
        self, models: Sequence[InspectedModel], count: int, journal: Journal | None = None
    ) -> None:
        self._models, self._count, self._journal = models, count, journal
        self._shown = {item.id.sha256: _Shown() for item in models}
        self.refused: dict[str, QGraphError] = {}
        if journal is not None:
            self._read(journal)

    def _read(self, journal: Journal) -> None:
        try:
            for entry in map(_unchanged, journal.entries.values()):
                # text, since NaN is no JSON, and a variant may show it
                seen = zip(entry["samples"], json.loads(entry["seen"]), strict=True)
                self._take(entry["model"], dict(seen), entry["placement"], entry["elsewhere"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(
                "the journal is damaged: an entry holds no observations",
                where=str(journal.path),
                hint="Start anew with --fresh.",
            ) from error

    def missing(self, model: InspectedModel) -> list[int]:
        """Return the samples that a variant was not looked at on."""
        known = self._shown[model.id.sha256].seen
        return [number for number in range(self._count) if number not in known]

    def to_look_at(self, model: InspectedModel) -> list[int]:
        """Return the samples that a process must have a variant look at: of the float model also
        those that others lack, as it is what they are compared with.
        """
        others = (item for item in self._models if item.name not in self.refused)
        asked = others if model.is_float else [model]
        return sorted({number for item in asked for number in self.missing(item)})

    def record(
        self, model: InspectedModel, numbers: Sequence[int], found: VariantObservations
    ) -> None:
        """Keep what a variant shows on some samples."""
        new = dict(zip(numbers, found.seen, strict=True))
        if not new:
            return
        if self._journal is not None:
            entry: dict[str, Any] = {
                "model": model.id.sha256,
                "samples": list(new),
                "seen": json.dumps(list(new.values())),
                "placement": found.placement,
                "elsewhere": found.elsewhere,
            }
            # SQLite has no checksum, and a changed figure is a figure
            entry["sha256"] = digest_of(entry)
            # which samples: those between two numbers may be another entry's
            self._journal.record(f"{model.id.sha256}: {', '.join(map(str, new))}", entry)
        self._take(model.id.sha256, new, found.placement, found.elsewhere)

    def look(
        self,
        model: InspectedModel,
        observe: Callable[[int], Observation],
        where: Callable[[], tuple[dict[str, int], dict[str, int]]],
        progress: Callable[[int, int], None],
    ) -> None:
        """Look at the samples that a variant lacks. `observe`: what it shows on one; `where`: its
        nodes' placement; `progress` is told how many are done, of how many.
        """
        numbers, wanted = self.to_look_at(model), set(self.missing(model))
        new: dict[int, Observation] = {}
        before, written = self._count - len(numbers), time.monotonic()
        try:
            for done, number in enumerate(numbers):
                progress(before + done, self._count)
                seen = observe(number)
                if number in wanted:
                    new[number] = seen
                if time.monotonic() - written >= _SECONDS:
                    self.record(model, list(new), VariantObservations([*new.values()], *where()))
                    new, written = {}, time.monotonic()
        finally:  # also of what is broken off
            self.record(model, list(new), VariantObservations([*new.values()], *where()))
        progress(self._count, self._count)

    def whole(self, model: InspectedModel) -> VariantObservations:
        """Return what a variant shows on every sample, in their order."""
        shown = self._shown[model.id.sha256]
        seen = [shown.seen[number] for number in range(self._count)]
        return VariantObservations(seen, shown.placement, shown.elsewhere)

    def _take(
        self,
        sha256: str,
        seen: dict[int, Any],
        placement: dict[str, int],
        elsewhere: dict[str, int],
    ) -> None:
        if sha256 not in self._shown:  # of a variant that is not asked about any more
            return
        shown = self._shown[sha256]
        shown.seen |= seen
        shown.placement, shown.elsewhere = dict(placement), dict(elsewhere)


def _unchanged(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry, ValueError where it is not what was written."""
    entry = dict(kept)
    if entry.pop("sha256") != digest_of(entry):
        raise ValueError("it says something else than what was written")
    return entry

"""What an engine works on, and what a journal must agree with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.io.documents import Part
from qgraph._graph.tensors import Feed
from qgraph._graph.version import VERSION, packages
from qgraph._quantize.formats import Format
from qgraph._quantize.ranges import Ranges
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._quantize.selection import Selection
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.report import Direction
from qgraph._sensitivity.scoring.loop import Scores
from qgraph._sensitivity.scoring.questions import Question, Scored

Elsewhere = Callable[[str, Sequence[Question], Sequence[int]], Scores | None]
"""Has other processes answer questions exactly: how (`Exactly`), which, on which samples; None
where they cannot."""


class EngineOptions(Part):
    """The options that only one engine has; a subclass has a field for each."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where samples came from, as reports say it. `more`: whether it holds more than were taken.
    `notes`: what of it was not taken as it is, and why.
    """

    description: str
    synthetic: bool = False
    seed: int = 0
    more: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Which nodes are scored, on which samples, where and how. `metric`: the key of what ranks
    them. `ranges`: None for an engine that calibrates by itself. `deadline`: when to stop, on
    `time.monotonic`'s clock. `narrow`: whether a wide last projection may be computed as a narrow
    one, with the same figures and no logits. `options`: the engine's own. `formats`: beside the
    scheme, scored in the same passes. `digests`: the SHA-256
    of each sample, where they are known. `warnings`: what is known before anything is scored.
    `elsewhere`: who measures exactly what an engine asks beside its scores, None for this process.
    `ranges_seconds`: what finding the ranges took, if they were not given.
    """

    prepared: PreparedModel
    selection: Selection
    scored: Scored
    scheme: Scheme
    feeds: Sequence[Feed] = ()
    digests: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    ranges: Ranges | None = None
    groups: tuple[Group, ...] = ()
    direction: Direction = Direction.BOTH
    metric: str = "mse"
    deadline: float | None = None
    narrow: bool = False
    options: EngineOptions = field(default_factory=EngineOptions)
    formats: tuple[Format, ...] = ()
    source: DataSource = DataSource("samples given")
    elsewhere: Elsewhere | None = None
    ranges_seconds: float | None = None

    @property
    def is_unseen(self) -> bool:
        """Return whether samples that ranges come from are scored with ranges of others."""
        if self.ranges is None or self.scheme.name is SchemeName.INC_CPU:
            return False  # scored as that tool does, with the ranges of all
        unseen = self.ranges.unseen
        return any(not set(self.digests).isdisjoint(part.samples) for part in unseen)

    @property
    def names(self) -> list[str]:
        """Return the names of the candidates."""
        return [node.name for node in self.selection.candidates]


def identity(work: Work, engine: str) -> dict[str, Any]:
    """Return what any two runs of an engine must share for one to go on with the other's journal.

    The metric is no part of it: it only orders what was measured.
    """
    return {
        "engine": engine,
        "model": work.prepared.id.sha256,
        "candidates": _digest(work.names),
        "scheme": work.scheme.model_dump(mode="json"),
        "outputs": list(work.scored.outputs),
        "samples": list(work.digests or map(digest_of_feed, work.feeds)),
        "qgraph": VERSION,
        "packages": packages(),
    }


def identity_of_questions(work: Work) -> dict[str, Any]:
    """Return what decides the questions that are asked of an engine, and their answers."""
    tables = [] if work.ranges is None else [work.ranges.tensors]
    tables += [] if work.ranges is None else [item.tensors for item in work.ranges.unseen]
    return {
        "groups": _digest([[group.name, *group.members] for group in work.groups]),
        "ranges": _digest([[[r.name, r.rmin, r.rmax, r.clip] for r in each] for each in tables]),
        "logits": work.scored.logits,
        "narrow": work.narrow,
        "split": None if work.scored.split is None else work.scored.split.__qualname__,
        "direction": work.direction,
        "formats": [item.model_dump(mode="json") for item in work.formats],
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def digest_of_feed(feed: Feed) -> str:
    """Return the SHA-256 of a sample: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

"""What an engine is, and what it answers: the same for ours and those of other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from qgraph._graph.errors import QGraphError
from qgraph._graph.run.runtime import Runtime
from qgraph._metrics import Sums
from qgraph._quantize.companions import Companion
from qgraph._quantize.scheme import SchemeName
from qgraph._sensitivity.beside_scores import (
    Cause,
    Estimate,
    IncSettings,
    Interactions,
    MemoryUse,
    MixedFormats,
)
from qgraph._sensitivity.report import Stability
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.score_table import ScoreTable
from qgraph._sensitivity.scoring.work import EngineOptions, Work


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall seconds: `setup`, `scoring`, and `forward`: one pass of the untouched model over the
    same samples. `ideal`: E*, what scoring must cost at least, in forwards.
    """

    setup: float
    scoring: float
    forward: float
    ideal: float


@dataclass(frozen=True, slots=True, eq=False)
class NodeScores:
    """What an engine found. `engine`: who did, where that is not the one asked. `macs`: node → MACs
    of the first sample. `unscored`: candidate → why it has no score. `screened`: node →
    noise-to-signal ratio of its own output, where there is nothing better. `causes`: node → why it
    is sensitive. `samples`: how many were scored, `complete`: whether those are all that was asked.
    `estimate`: how scores were estimated, where they were not measured; `interactions`: what pairs
    of nodes do together; `formats`: the scores in other formats, by name; `mixed`: what nodes do in
    two of them; `gauss_newton`: node → a
    lens of second order. `broken_off`: what ended the work before its time; what is there is true
    all the same.
    """

    table: ScoreTable
    macs: Mapping[str, int]
    timing: Timing
    samples: int
    complete: bool
    engine: str | None = None
    unscored: Mapping[str, str] = field(default_factory=dict)
    stability: Mapping[str, Stability] = field(default_factory=dict)
    screened: Mapping[str, float] = field(default_factory=dict)
    causes: Mapping[str, Cause] = field(default_factory=dict)
    companions: Sequence[Companion] = ()
    memory: MemoryUse | None = None
    computed_in: str | None = None
    warnings: tuple[str, ...] = ()
    inc: IncSettings | None = None
    estimate: Estimate | None = None
    interactions: tuple[Interactions, ...] = ()
    gauss_newton: Mapping[str, float] = field(default_factory=dict)
    formats: Mapping[str, ScoreTable] = field(default_factory=dict)
    mixed: MixedFormats | None = None
    broken_off: QGraphError | None = None


class Engine(Protocol):
    """Scores every candidate of a model. Found by an entry point of the group `qgraph.engines`;
    plain class attributes will do for the properties.
    """

    @property
    def name(self) -> str:
        """Return what `--engine NAME` takes, which is also the entry point's name."""
        ...

    @property
    def options(self) -> type[EngineOptions]:
        """Return a class with a field for each option that this engine alone has."""
        ...

    @property
    def schemes(self) -> tuple[SchemeName, ...]:
        """Return the schemes that it computes, its own choice first."""
        ...

    @property
    def calibrates(self) -> bool:
        """Return whether it finds ranges by itself."""
        ...

    def check(self, work: Work, runtime: Runtime) -> None:
        """Refuse what it cannot do; `work` has no samples yet, and ranges only if they were given.

        Raises:
            EnvironmentFault: what it needs is not installed.
            LimitError: the memory budget is less than the work takes at least.
            UsageError: an option that does not go with it.
        """
        ...

    def identity(self, work: Work, runtime: Runtime) -> dict[str, Any]:
        """Return what two runs must share for one to go on with the other's journal: JSON values
        by name.
        """
        ...

    def measure(self, work: Work, runtime: Runtime, journal: Journal | None) -> NodeScores:
        """Return the scores of all candidates, over the samples that the deadline allows.

        What is finished goes into `journal`, under keys of the engine's own, and is not done again.
        """
        ...


SumsOf = Callable[[Sequence[int]], Mapping[int, Sequence[Sums]]]
"""Takes some sample numbers; returns sample number → the sums of every question about it."""


@runtime_checkable
class DivisibleEngine(Engine, Protocol):
    """An engine that can compute some samples here and others elsewhere."""

    def by_samples(self, work: Work, runtime: Runtime, folder: Path) -> SumsOf:
        """Return what computes the sums of samples of `work`, opened once and asked again and
        again. What they come to does not depend on who computes which. Files left in `folder` go
        with them into the folder of the journal; it is there while samples are computed.
        """
        ...

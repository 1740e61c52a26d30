"""What a task must know how to do, by which variants of a model are measured, and what it may.

The task itself comes first, then what some can do beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, Feed


class Task(Protocol):
    """Measures variants of one model on fixed data; the float model always comes first."""

    @property
    def name(self) -> str:
        """Return what the task is called in `evaluation.json`."""

    @property
    def feeds(self) -> Sequence[Feed]:
        """Return the forward passes that all variants make."""

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the metrics of one variant, by the keys of evaluation.json."""


Observation = Mapping[str, Any]
"""What a variant shows on one sample, by name: numbers, text and lists of these."""


@runtime_checkable
class ObservesSamples(Task, Protocol):
    """A task that looks at one sample after the other, so that other processes can do some."""

    @property
    def divisible(self) -> bool:
        """Return whether a sample can be looked at without those before it."""

    def observe(self, index: int, session: Session, *, first: bool) -> Observation:
        """Return what a variant shows on a sample; of the `first` variant, what others are compared
        with is kept.
        """

    def conclude(self, name: str, seen: Sequence[Observation]) -> dict[str, float]:
        """Return the metrics of a variant from what it shows on each sample, in their order."""


Kept = TypeVar("Kept")
"""What is kept of a variant, sample by sample."""


class SampleBySample(Generic[Kept]):
    """What tasks have in common that go by samples: `_reference`, of each sample what the float
    model gives, and `_seen`, of each variant what its samples add to the metrics.
    """

    def __init__(self) -> None:
        self._reference: dict[int, Any] = {}
        self._seen: dict[str, Kept] = {}

    def measure(self, name: str, session: Session, progress: Progress) -> dict[str, float]:
        """Return the metrics of one variant; the first one measured is the reference."""
        task = cast("ObservesSamples", self)
        seen, first, count = [], not self._reference, len(task.feeds)
        for index in range(count):
            progress(f"evaluating {name}", index, count)
            seen.append(task.observe(index, session, first=first))
        progress(f"evaluating {name}", count, count)
        return task.conclude(name, seen)

    def per_sample(self, name: str) -> Kept:
        """Return what each sample adds to the metrics of a variant already measured."""
        return self._seen[name]


@runtime_checkable
class Stepwise(Protocol):
    """A task whose runs are of more than one kind, each with a latency of its own."""

    def steps(self, session: Session) -> dict[str, Feed]:
        """Return `prefill` and, where the graph has a cache, `decode`: one more token after it."""


@runtime_checkable
class ComparesInside(Protocol):
    """A task that compares at inner tensors: `inner` are made outputs of each variant."""

    inner: tuple[str, ...]


@runtime_checkable
class SaysMore(Protocol):
    """A task with something to say about how it counts."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the figures should know, in sentences."""


@runtime_checkable
class NamesMetrics(Protocol):
    """A task that says beforehand which metrics it can have, so that no other is asked for."""

    @property
    def metrics(self) -> frozenset[str]:
        """Return the keys of evaluation.json, those included that only some data gives."""


@runtime_checkable
class ComparesOutputs(Protocol):
    """A task over several outputs, which an error of one may hide in."""

    def by_output(self, name: str) -> dict[str, float]:
        """Return output → SQNR in dB of a variant already measured; equal outputs have none."""


@runtime_checkable
class Answers(Protocol):
    """A task that also has questions answered, which takes most of its time."""

    def without_answers(self) -> Task:
        """Return the task that leaves the questions out."""


@runtime_checkable
class Labelled(Protocol):
    """A task whose samples may have labels."""

    def labels_of(self, index: int) -> Array | None:
        """Return the right classes of a sample already measured, int [n]; None: nobody knows."""

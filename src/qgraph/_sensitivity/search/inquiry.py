"""What a search asks of ways to quantize a model, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qgraph._quantize.learnt import Clips, Way
from qgraph._sensitivity.scoring.questions import Question


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A way, with its clips, under which the error of each set of nodes is asked for on samples of
    these numbers. `clips`, `rotated`: of each part, what `Learnt` says.
    """

    way: Way
    clips: Sequence[Clips]
    questions: Sequence[Question]
    numbers: Sequence[int]
    rotated: Sequence[Mapping[str, float]]


Told = Mapping[int, Sequence[tuple[float, ...]]]
"""Number of a sample → of each question noise to signal, signal, and the error at each place."""
Ask = Callable[[Inquiry], Iterator[Told]]
"""Yields what is asked, as it is measured."""

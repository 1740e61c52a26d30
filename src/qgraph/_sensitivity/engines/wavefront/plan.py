"""What the walk has to do, decided before it starts.

A question (the set of quantized nodes) becomes a variant of the nearer baseline: of the all-float
one with some nodes switched on, or of the all-quantized one with some switched off. A variant
starts in the segment of its first such node; before that it is its baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from qgraph._graph.edit.segments import Segment
from qgraph._sensitivity.scoring.questions import Question


class Base(Enum):
    """The run a variant departs from."""

    FLOAT = "float"
    QUANTIZED = "quantized"


@dataclass(frozen=True, slots=True)
class SwitchedVariant:
    """`toggles`: the nodes switched against the baseline, none where the variant is its baseline;
    `first`: the first segment that holds one.
    """

    question: int
    base: Base
    toggles: frozenset[str]
    first: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`starting`: segment → variants that start there; `resting`: those that never do; `last_read`:
    tensor → the last segment that reads it (the number of segments where it is an output).
    """

    segments: Sequence[Segment]
    starting: Mapping[int, Sequence[SwitchedVariant]]
    resting: Sequence[SwitchedVariant]
    last_read: Mapping[str, int]

    @property
    def needs_quantized(self) -> bool:
        """Return whether any variant departs from the all-quantized baseline."""
        every = [*self.resting, *(item for group in self.starting.values() for item in group)]
        return any(item.base is Base.QUANTIZED for item in every)


def make_plan(
    segments: Sequence[Segment],
    candidates: frozenset[str],
    questions: Sequence[Question],
    outputs: Sequence[str],
) -> Plan:
    """Return the plan for answering `questions` at `outputs`."""
    place = {name: index for index, item in enumerate(segments) for name in item.candidates}
    starting: dict[int, list[SwitchedVariant]] = {}
    resting: list[SwitchedVariant] = []
    for index, question in enumerate(questions):
        variant = _variant(index, question, candidates, place)
        if variant.toggles:
            starting.setdefault(variant.first, []).append(variant)
        else:
            resting.append(variant)
    last_read = {name: i for i, item in enumerate(segments) for name in item.inputs}
    last_read |= dict.fromkeys(outputs, len(segments))
    return Plan(segments, starting, resting, last_read)


def _variant(
    index: int, question: Question, candidates: frozenset[str], place: Mapping[str, int]
) -> SwitchedVariant:
    inside = frozenset(question & place.keys())
    rest = (candidates & place.keys()) - inside
    base = Base.FLOAT if len(inside) <= len(rest) else Base.QUANTIZED
    toggles = inside if base is Base.FLOAT else rest
    return SwitchedVariant(index, base, toggles, min((place[name] for name in toggles), default=0))

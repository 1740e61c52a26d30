"""Questions about samples, and what answers them.

A question is the set of nodes that are quantized. The answer is how far the outputs are then from
the float model's. Samples, budgets and journals are the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol

from qgraph._graph.edit.heads import OutputHead
from qgraph._graph.errors import InputError
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Columns, Comparator, Split, Sums, whole

Question = Set[str]
Key = tuple[str, str]
"""(`all`, `solo` or `without`; the node or group concerned): what a question is about."""
Step = Callable[[float], None]
"""Called now and then with the share of the work that is done; may raise to stop it."""


class AllBut(Question):
    """The set of `everything` less a few, `left_out`, which are among it: it holds these two alone,
    so that leaving out each of many nodes does not take memory with the square of their number.
    """

    def __init__(self, everything: frozenset[str], left_out: frozenset[str]) -> None:
        self.everything, self.left_out = everything, left_out

    def __contains__(self, name: object) -> bool:
        return name in self.everything and name not in self.left_out

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.everything if name not in self.left_out)

    def __len__(self) -> int:
        return len(self.everything) - len(self.left_out)

    @classmethod
    def _from_iterable(cls, names: Iterable[str]) -> frozenset[str]:  # type: ignore[override]
        return frozenset(names)


@dataclass(frozen=True, slots=True)
class Scored:
    """Where distances are taken: output names, and whether they are logits. `split`: into the parts
    that are compared one by one, where outputs are not of one piece. `narrowed`: the head whose
    output, the only one, stands narrower than the model's in what an engine computes.
    """

    outputs: tuple[str, ...]
    logits: bool
    split: Split | None = None
    narrowed: OutputHead | None = None


class Answerer(Protocol):
    """Answers questions about samples."""

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return how many samples it would best be asked about together."""
        ...

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> Iterable[Sequence[Sums]]:
        """Return, for each feed and question, the distance sums over the scored outputs; feed by
        feed as they come, where the engine can.

        Raises:
            InputError: an output of the float model holds NaN or infinity.
        """
        ...


class References:
    """The float model's outputs for one sample, ready to be compared with; `spread`: over threads.

    Raises:
        InputError: one of them holds NaN or infinity, from which there is no distance.
    """

    def __init__(
        self, outputs: Mapping[str, Array], scored: Scored, *, spread: bool = True
    ) -> None:
        split = scored.split or whole
        self._narrowed = scored.narrowed
        self._parts: list[tuple[str, Columns | None]] = [
            (name, columns)
            for name in scored.outputs
            for columns in (split(outputs[name].shape) or (None,))
        ]
        self._comparators = [
            Comparator(_part(outputs[name], columns), logits=scored.logits, spread=spread)
            for name, columns in self._parts
        ]
        for (name, columns), comparator in zip(self._parts, self._comparators, strict=True):
            try:
                comparator.compare(_part(outputs[name], columns))
            except InputError as error:
                raise InputError(
                    "the float model's output holds NaN or infinity",
                    where=f"output {name!r}",
                    hint="Measure elsewhere with --outputs, or check the model and the data.",
                ) from error

    def compare(self, outputs: Mapping[str, Array]) -> Sums:
        """Return the distance of `outputs`; those that cannot be compared are counted as failed."""
        pairs = zip(self._parts, self._comparators, strict=True)
        sums = sum((_compare(by, _part(outputs[n], part)) for (n, part), by in pairs), Sums())
        if self._narrowed is None:
            return sums
        return replace(sums, count=sums.count // self._narrowed.hidden * self._narrowed.width)


def _part(output: Array, columns: Columns | None) -> Array:
    return output if columns is None or output.ndim <= columns.axis else columns.of(output)


def _compare(comparator: Comparator, output: Array) -> Sums:
    try:
        return comparator.compare(output)
    except InputError:
        return Sums(failed=1)

"""What every engine of ours is: something that answers questions about samples.

A question is the set of nodes that are quantized. The answer is how far the outputs are then from
the float model's. Samples, budgets and journals are the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graph.errors import InputError
from graph.runtime.distance import Comparator, Sums
from graph.tensors import Array, Feed

Question = frozenset[str]
Step = Callable[[float], None]
"""Called now and then with the share of the work that is done; may raise to stop it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Where distances are taken: output names, and whether they are logits."""

    outputs: tuple[str, ...]
    logits: bool


class ScoringEngine(Protocol):
    """Answers questions about samples."""

    def samples_at_once(self, questions: Sequence[Question]) -> int:
        """Return how many samples the engine would best be asked about together."""
        ...

    def sums(
        self, questions: Sequence[Question], feeds: Sequence[Feed], step: Step
    ) -> list[list[Sums]]:
        """Return, for each feed and question, the distance sums over the scored outputs.

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
        self._comparators = {
            name: Comparator(outputs[name], logits=scored.logits, spread=spread)
            for name in scored.outputs
        }
        for name, comparator in self._comparators.items():
            try:
                comparator.compare(outputs[name])
            except InputError as error:
                raise InputError(
                    "the float model's output holds NaN or infinity",
                    where=f"output {name!r}",
                    hint="Measure elsewhere with --outputs, or check the model and the data.",
                ) from error

    def compare(self, outputs: Mapping[str, Array]) -> Sums:
        """Return the distance of `outputs`; those that cannot be compared are counted as failed."""
        return sum((self._one(name, outputs[name]) for name in self._comparators), Sums())

    def _one(self, name: str, output: Array) -> Sums:
        try:
            return self._comparators[name].compare(output)
        except InputError:
            return Sums(failed=1)

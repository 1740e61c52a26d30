"""What every engine of ours is: something that answers questions about one sample.

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
"""Called now and then with the share of a sample's work that is done; may raise to stop it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Where distances are taken: output names, and whether they are logits."""

    outputs: tuple[str, ...]
    logits: bool


class ScoringEngine(Protocol):
    """Answers questions about one sample."""

    def sums(self, questions: Sequence[Question], feed: Feed, step: Step) -> list[Sums]:
        """Return, for each question, the distance sums over the scored outputs.

        Raises:
            InputError: an output holds NaN or infinity, from which there is no distance.
        """
        ...


class References:
    """The float model's outputs for one sample, ready to be compared with."""

    def __init__(self, outputs: Mapping[str, Array], scored: Scored) -> None:
        self._comparators = {
            name: Comparator(outputs[name], logits=scored.logits) for name in scored.outputs
        }

    def compare(self, outputs: Mapping[str, Array], question: Question) -> Sums:
        """Return the distance of `outputs`, which quantizing the nodes of `question` gave."""
        total = Sums()
        for name, comparator in self._comparators.items():
            try:
                total = total + comparator.compare(outputs[name])
            except InputError as error:
                raise InputError(
                    f"NaN or infinity with {_named(question)} quantized",
                    where=f"output {name!r}",
                    hint="Measure elsewhere with --outputs, leave nodes out with --exclude, or"
                    " check the data.",
                ) from error
        return total


def _named(question: Question) -> str:
    match len(question):
        case 0:
            return "nothing"
        case 1:
            return repr(min(question))
        case count:
            return f"{count} nodes"

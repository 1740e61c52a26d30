"""The largest profile that meets a budget, found on switches: no model is emitted on the way.

The search where nothing is known of what nodes do together; else see `predicted.py`.

1. Units (nodes, or fused groups) are ranked by the error they add for what they bring. The longest
   prefix of the ranking that meets the budget is found by bisection, in about log2 N measurements:
   it is taken for granted here that more quantized nodes do not measure better.
2. Exchange, which does not: units beyond the prefix are tried one by one, as errors do not add up;
   then each of the last units let in is taken out to see whether others fit in its place. In the
   end every unit left out has been measured to break the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qgraph._graph.errors import InputError
from qgraph._graph.progress import Progress, silent
from qgraph._metrics.budget import Budget
from qgraph._sensitivity.ranking.profiles import Unit

_EXCHANGED = 3
"""How many of the last units let in are tried to be replaced."""


Measure = Callable[[frozenset[str]], float]
"""Returns the metric with exactly these nodes quantized."""


@dataclass(frozen=True, slots=True)
class WithinBudget:
    """`units` meet the budget with `value`; `measurements` were made."""

    units: tuple[Unit, ...]
    value: float
    measurements: int


def search_budget(
    units: Sequence[Unit], budget: Budget, measure: Measure, progress: Progress = silent
) -> WithinBudget:
    """Return the largest set of `units`, given in the order they enter a profile, that is found.

    Raises:
        InputError: not even the float model meets the budget.
    """
    asked = _Asked(units, budget, measure, progress)
    require_float_fits(budget, asked.value(frozenset()))
    prefix = _longest_prefix(asked, len(units))
    # each exchange and the last look go through what is left out once more
    asked.expect((len(units) - len(prefix)) * (1 + min(_EXCHANGED, len(prefix))))
    chosen = _filled(prefix, asked)
    for index in sorted(chosen, reverse=True)[:_EXCHANGED]:
        other = _filled(chosen - {index}, asked, without=index)
        if asked.weight(other) > asked.weight(chosen):
            chosen = other
    chosen = _filled(chosen, asked)
    asked.expect(0)
    return WithinBudget(
        tuple(units[i] for i in sorted(chosen)), asked.value(chosen), len(asked.known)
    )


def require_float_fits(budget: Budget, value: float) -> None:
    """Refuse a budget that the float model, whose metric is `value`, does not meet."""
    if not budget.is_met(value, value):
        raise InputError(
            f"the float model itself does not meet {budget}: its {budget.metric} is {value:.6g}",
            hint="Ask for less; a limit with x is relative to the float model.",
        )


class _Asked:
    """Sets of units, by index, each measured once."""

    def __init__(
        self, units: Sequence[Unit], budget: Budget, measure: Measure, progress: Progress
    ) -> None:
        self._units, self._budget = units, budget
        self._measure, self._progress = measure, progress
        self.known: dict[frozenset[int], float] = {}
        self.count = len(units)
        self._expected = self.count.bit_length() + 2

    def expect(self, more: int) -> None:
        """Say how many measurements there may still be; progress ends with none."""
        self._expected = len(self.known) + more
        self._show()

    def _show(self) -> None:
        done = len(self.known)
        self._progress("searching the budget", done, max(done, self._expected))

    def value(self, chosen: frozenset[int]) -> float:
        """Return the metric of a set."""
        if chosen not in self.known:
            nodes = frozenset(n for index in chosen for n in self._units[index].members)
            self.known[chosen] = self._measure(nodes)
            self._show()
        return self.known[chosen]

    def fits(self, chosen: frozenset[int]) -> bool:
        """Return whether a set meets the budget."""
        return self._budget.is_met(self.value(chosen), self.value(frozenset()))

    def weight(self, chosen: frozenset[int]) -> float:
        """Return what a set brings."""
        return sum(self._units[index].weight for index in chosen)


def _longest_prefix(asked: _Asked, count: int) -> frozenset[int]:
    """Return the longest prefix that fits, by bisection; 0 fits."""
    fits, breaks = 0, count + 1
    while breaks - fits > 1:
        # all of it first: where everything fits, one measurement is enough
        middle = count if breaks > count else (fits + breaks) // 2
        if asked.fits(frozenset(range(middle))):
            fits = middle
        else:
            breaks = middle
    return frozenset(range(fits))


def _filled(chosen: frozenset[int], asked: _Asked, without: int | None = None) -> frozenset[int]:
    """Return `chosen` with every unit added that fits, until none does."""
    while True:
        before = chosen
        for index in range(asked.count):
            if index not in chosen and index != without and asked.fits(chosen | {index}):
                chosen |= {index}
        if chosen == before:
            return chosen

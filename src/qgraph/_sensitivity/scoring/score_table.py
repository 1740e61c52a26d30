"""Which questions are asked, and the scores read from their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.run.distance import Distances
from qgraph._quantize.companions import Companion
from qgraph._sensitivity.engines.questions import Key, Question
from qgraph._sensitivity.ranking.groups import Group
from qgraph._sensitivity.ranking.order import badness, ranks
from qgraph._sensitivity.report import Direction, Metric, Score, Screen, Stability
from qgraph._sensitivity.scoring.loop import Scores

_ALL: Key = ("all", "")


def ask(
    nodes: Sequence[QuantizableNode],
    groups: Sequence[Group],
    direction: Direction,
    companions: Sequence[Companion] = (),
) -> dict[Key, Question]:
    """Return key → the set of quantized nodes, for every unit in the directions asked for.

    A companion is quantized where the convolution beside it is, as in the emitted model.
    """
    beside: dict[str, set[str]] = {node.name: {node.name} for node in nodes}
    for companion in companions:
        beside[companion.beside].add(companion.node.name)
    everything = frozenset().union(*beside.values())
    units = {name: frozenset(names) for name, names in beside.items()}
    units |= {
        group.name: frozenset().union(*(beside[name] for name in group.members)) for group in groups
    }
    questions: dict[Key, Question] = {_ALL: everything}
    for name, members in units.items():
        if direction.has_solo:
            questions["solo", name] = members
        if direction.has_leave_one_out:
            questions["without", name] = everything - members
    return questions


def _view(keys: Sequence[Key], distances: Sequence[Distances | None]) -> _View:
    pairs = zip(keys, distances, strict=True)
    return _View({key: found for key, found in pairs if found is not None})


@dataclass(frozen=True, slots=True)
class _View:
    """Distances by key, over all samples or over one."""

    found: dict[Key, Distances]

    def solo(self, name: str) -> Score | None:
        distances = self.found.get(("solo", name))
        return None if distances is None else Score.of(distances)

    def without(self, name: str) -> Score | None:
        distances, whole = self.found.get(("without", name)), self.found.get(_ALL)
        if distances is None:
            return None
        return Score.of(distances, gain=None if whole is None else whole.mse - distances.mse)

    def ranks(self, names: Sequence[str], metric: Metric) -> list[int]:
        return ranks([badness(self.solo(name), self.without(name), metric) for name in names])


class Answers:
    """The answers to `ask`'s questions, `keys` in the order they were asked.

    `screened`: node → noise-to-signal ratio of its own output, where no sample was scored.
    """

    def __init__(
        self, keys: Sequence[Key], scores: Scores, screened: Mapping[str, float] | None = None
    ) -> None:
        self.scores = scores
        self._keys = list(keys)
        self._overall = _view(keys if scores.samples else [], scores.distances())
        self._screened = screened or {}

    def all_quantized(self) -> Score | None:
        """Return the score with every candidate quantized, if a sample was scored."""
        found = self._overall.found.get(_ALL)
        return None if found is None else Score.of(found)

    def screen(self, name: str) -> Screen | None:
        """Return what quantizing a node does to its own output, if that was asked."""
        found = self._screened.get(name)
        return None if found is None else Screen(noise_to_signal=found)

    def solo(self, name: str) -> Score | None:
        """Return the score of a unit quantized alone, if it was asked for."""
        return self._overall.solo(name)

    def without(self, name: str) -> Score | None:
        """Return the score of a unit left out alone, if it was asked for."""
        return self._overall.without(name)

    def samples_of(self, name: str) -> int | None:
        """Return how many samples a unit was measured on, None where on all."""
        asked = self.scores.asked
        seen = [asked[i] for i, (_, of) in enumerate(self._keys) if of == name] if asked else []
        return min(seen) if seen and min(seen) < len(self.scores.samples) else None

    def failed(self, name: str) -> bool:
        """Return whether quantizing this unit leaves outputs that cannot be compared."""
        if self._screened:
            return False
        asked = ("solo", name) if ("solo", name) in self._keys else ("without", name)
        return asked not in self._overall.found

    def ranks(self, names: Sequence[str], metric: Metric) -> list[int]:
        """Return the rank of each node, 1 for the most sensitive."""
        if self._screened:
            return ranks([self._screened[name] for name in names])
        return self._overall.ranks(names, metric)

    def stability(self, names: Sequence[str], metric: Metric) -> list[Stability]:
        """Return the range of each node's rank over single samples, those about which all was
        asked; empty where there is one.
        """
        whole = min(self.scores.asked, default=len(self.scores.samples))
        if whole < 2:
            return []
        rows = [
            _view(self._keys, self.scores.of_sample(index)).ranks(names, metric)
            for index in range(whole)
        ]
        return [Stability(rank_min=min(r), rank_max=max(r)) for r in zip(*rows, strict=True)]

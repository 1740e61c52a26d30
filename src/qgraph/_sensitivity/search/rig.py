"""What measures ways to quantize a model on samples that they were not made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from qgraph._graph.edit.selecting import last_weights, with_outputs
from qgraph._graph.errors import LimitError
from qgraph._graph.index import is_half
from qgraph._graph.io.weights import size_of
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.provider import Provider
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Array, OnDemand
from qgraph._metrics import Sums
from qgraph._quantize.companions import find_companions
from qgraph._quantize.learnt import Learning, Learnt, Peaks, Way
from qgraph._quantize.smooth.in_place import weights_absorbing, weights_changed
from qgraph._quantize.smooth.points import SmoothPoint, find_points
from qgraph._sensitivity.engines.auto import forwards_of_scores
from qgraph._sensitivity.scoring.journal import Journal
from qgraph._sensitivity.scoring.questions import Question, Scored
from qgraph._sensitivity.scoring.work import digest_of_feed
from qgraph._sensitivity.search.adjustable import Adjustable
from qgraph._sensitivity.search.asking import Search, Spent, Trial
from qgraph._sensitivity.search.inquiry import Ask, Inquiry, Told
from qgraph._sensitivity.search.kept_ways import KeptWays
from qgraph._sensitivity.search.smoothing import is_alone

_JUDGED = 16
"""Samples that are looked at, at most."""
_SHARE_OF_SCORES, _FEWEST_WAYS = 0.7, 5
"""Of the forwards that scores take, those the search may take: its own are dearer. At least as many
as so many ways take, beside what sets are made of."""
_UNITS, _FEW_UNITS, _SOLO = 24, 8, 2
"""Runs of nodes whose harm is measured apart, and samples on which: what sets are made of."""
_SHARES, _FEW_SHARES = (0.5, 0.75, 1.0), (0.75, 1.0)
"""Of the nodes, those that harm least first: what profiles quantize."""
MANY = 64
"""Nodes above which there are few sets of them, and few runs: scores are estimates then, in few
forwards, and a sample of a model so large mostly has many answers.
"""
HARMLESS = 1e-5
"""Noise to signal of a sample that is of no account: ratios of smaller ones, which outputs near 0
and 1 have by the dozen, would hide what happens to the others."""
_MOST, _SHARE = 128, 4
"""A rotated block has at most this many channels, and costs at most one product in four of its
readers'."""
_COPIES = 3
"""Of the weights that are held at once."""
_TINY = float(np.finfo(np.float64).tiny)


Peaked = Sequence[Mapping[str, Peaks]]
Elsewhere = Callable[[Peaked], Ask]
"""Returns what has other processes measure, each with a rig of its own made from these peaks."""


class Rig:
    """Measures ways on samples that others made, as long as there are forwards left; `elsewhere`,
    where that is given. `peaks`: what samples say, where another process ran them. `journal`: what
    was measured before, and is now. `cut_short`: whether the deadline kept it from measuring.
    """

    def __init__(
        self,
        search: Search,
        *,
        smooths: bool,
        peaks: Peaked | None = None,
        elsewhere: Elsewhere | None = None,
        journal: Journal | None = None,
    ) -> None:
        prepared = search.prepared
        candidates = list(search.nodes(prepared))
        companions = find_companions(prepared.model, candidates)
        nodes = [*candidates, *(item.node for item in companions)]
        points = find_points(prepared.model, candidates) if smooths else ()
        free = [point for point in points if point.absorbers or not point.spatial]
        digests = [digest_of_feed(feed) for feed in search.feeds]
        learning = Learning(prepared, nodes, search.feeds, digests, search.scheme, search.look)
        self.learnt = Learnt(learning, [point for point in free if is_alone(point, nodes)], peaks)
        ask = self.answers if elsewhere is None else elsewhere(self.learnt.peaks)
        self._ask = ask if journal is None else KeptWays(ask, journal)
        widths = {
            node.name: node.weight.shape[node.weight.axis]
            for node in candidates
            if node.weight is not None and node.weight.axis is not None
        }
        blocks = {point: point.block(_affordable(point, widths)) for point in self.learnt.points}
        self.blocks = {point: block for point, block in blocks.items() if block > 1}
        self.free = {point: block for point, block in self.blocks.items() if point.turns}
        self.names = [node.name for node in candidates]
        self.beside = {item.node.name: item.beside for item in companions}
        self.nodes = nodes
        self._search, self._trial = search, Trial(search, prepared, nodes, search.feeds)
        count, step = len(search.feeds), math.ceil(len(search.feeds) / _JUDGED)
        self.judged = range(0, count, step)
        price = forwards_of_scores(prepared.model, candidates, count)
        ways = _FEWEST_WAYS * len(sizes_of(len(candidates)))
        fewest = ways * len(self.judged) + len(self.units) * len(self.solo)
        share = max(ways + _SOLO, _SHARE_OF_SCORES * price)
        self.allowed = max(fewest, math.ceil(share * count))
        self.left, self.cut_short = self.allowed, False

    @property
    def units(self) -> list[list[str]]:
        """Return the runs of nodes whose harm is measured apart."""
        most = _FEW_UNITS if len(self.names) > MANY else _UNITS
        parts = np.array_split(np.array(self.names, object), min(most, len(self.names)))
        return [list(each) for each in parts]

    @property
    def solo(self) -> Sequence[int]:
        """Return the numbers of the samples on which that is measured."""
        return self.judged[:: max(1, len(self.judged) // _SOLO)][:_SOLO]

    @cached_property
    def _part_of(self) -> dict[int, int]:
        return {number: at for at, part in enumerate(self.learnt.parts) for number in part}

    @cached_property
    def _session(self) -> Adjustable:
        model, _, scored = self._trial.computed()
        points, blocks = self.learnt.points, self.blocks
        keys = weights_changed(self.nodes, points, blocks)
        plain = self.learnt.quantization(Way(), {}, 0, {})
        ones = {
            point.tensor: np.ones(
                (point.channels, *[1] * point.spatial), plain.scales[point.tensor].dtype
            )
            for point in points
        }
        left = {point.tensor: (block, False) for point, block in blocks.items()}
        whole = plain.integers.keys() - weights_absorbing(self.nodes, blocks)
        integers = OnDemand({key: partial(plain.integers.__getitem__, key) for key in whole})
        opened = replace(plain, products=ones, rotations=left, integers=integers)
        (made,) = self._trial.in_precision([opened])
        search = self._search
        inner = [each for each in last_weights(model.model, scored.outputs) if each]
        model = replace(model, model=with_outputs(model.model, [n for each in inner for n in each]))
        places = [replace(scored, logits=search.scored.logits)]
        places += [Scored(each, logits=False) for each in inner]
        return Adjustable(model, self.nodes, made, keys, places, search.provider, search.memory)

    def allow(self, more: int) -> None:
        """Allow so many more forwards."""
        self.allowed += more
        self.left += more

    def require(self, forwards: int) -> None:
        """Raise Spent where there are fewer left, or no time for them."""
        if forwards > self.left:
            raise Spent
        if self._search.is_late:
            self.cut_short = True
            raise Spent

    def errors(
        self,
        way: Way,
        questions: Sequence[Question],
        numbers: Sequence[int] | None = None,
    ) -> Array:
        """Return the noise to signal of samples and their signal (the sum of squares), then the
        errors that ways are judged by, float64 [2 + places, samples, questions]. Of a language
        model, with logits at many positions, it is their mean KL; else noise to signal: at the
        outputs, no less than what is harmless, at what the last weights make, and at what they
        read, as far as these are not the same.

        Raises:
            Spent: it would take more forwards than there are left, or the deadline has passed.
        """
        asked = self.judged if numbers is None else numbers
        self.require(len(asked) * len(questions))
        self.left -= len(asked) * len(questions)
        rotated = self.learnt.rotated_peaks(way)
        clips = [self.learnt.clips_of(way, at) for at in range(len(self.learnt.parts))]
        rows: dict[int, Sequence[tuple[float, ...]]] = {}
        for told in self._ask(Inquiry(way, clips, questions, asked, rotated)):
            rows |= told
        self._search.progress("choosing ranges", self.allowed - self.left, self.allowed)
        found: Array = np.array([rows[number] for number in asked]).transpose(2, 0, 1)
        return found

    def answers(self, asked: Inquiry) -> Iterator[Told]:
        """Yield what is asked, sample by sample, measured by this process."""
        _, feeds, _ = self._trial.computed()
        for part in sorted({self._part_of[number] for number in asked.numbers}):
            session = self._adjusted(asked, part)
            for number in (n for n in asked.numbers if self._part_of[n] == part):
                found = (
                    self._session.ask(number, feeds[number], session, question)
                    for question in asked.questions
                )
                yield {number: [_errors_of(item) for item in found]}
            del session  # before the weights of the next one are made

    def _adjusted(self, asked: Inquiry, part: int) -> Session:
        way = asked.way
        made = self.learnt.quantization(way, asked.clips[part], part, asked.rotated[part])
        keys = weights_changed(self.nodes, dict(way.strengths), dict(way.rotated))
        (made,) = self._trial.in_precision([made])
        return self._session.adjusted(made, keys)

    def with_companions(self, names: Sequence[str]) -> Question:
        """Return a set of nodes with the residual Adds beside them."""
        chosen = set(names)
        return frozenset(chosen | {add for add, beside in self.beside.items() if beside in chosen})


def sizes_of(count: int) -> list[int]:
    """Return how many of so many nodes each set has; of few nodes some would be the same."""
    shares = _FEW_SHARES if count > MANY else _SHARES
    return list(dict.fromkeys(max(1, round(share * count)) for share in shares))


def _errors_of(found: Sequence[Sums]) -> tuple[float, ...]:
    """Return noise to signal, signal, and the error at each place: where there is a KL, that."""
    whole, noises = found[0], [_noise_of(item) for item in found]
    if whole.positions > 1 and not whole.failed:
        return noises[0], whole.signal, *([whole.kl / whole.positions] * len(found))
    return noises[0], whole.signal, max(noises[0], HARMLESS), *noises[1:]


def _noise_of(item: Sums) -> float:
    """Return noise to signal, the mean over outputs, or over the parts of one."""
    if item.failed:
        return np.inf
    return item.relative / item.parts if item.parts else item.error / _TINY


def _affordable(point: SmoothPoint, widths: Mapping[str, int]) -> int:
    """Return the most channels a rotated block may have; one that is absorbed costs nothing."""
    if point.turns:
        return point.channels
    return max(1, min(_MOST, sum(widths[name] for name in point.quantized) // _SHARE))


def lack_of_room(search: Search) -> str | None:
    """Return why there is none: weights are held as often as one session holds them, float,
    quantized, and those that a way brings along. None where they fit.
    """
    widened = 2 if search.provider is Provider.CPU and is_half(search.prepared.model) else 1
    weights = widened * sum(map(size_of, search.prepared.model.graph.initializer))
    left = (search.memory or Memory.of(None)).left
    if _COPIES * weights <= left:
        return None
    return (
        f"it holds the weights {_COPIES} times, {_COPIES * weights / 2**30:.1f} GiB, and"
        f" {left / 2**30:.1f} GiB of memory are left"
    )


def require_room(search: Search) -> None:
    """Check that the weights fit into memory.

    Raises:
        LimitError: they do not.
    """
    if (why := lack_of_room(search)) is not None:
        raise LimitError(why)

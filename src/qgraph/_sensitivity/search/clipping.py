"""The range of each activation, chosen by the error that it makes at the model's outputs.

A clip that a tensor's own error calls best may cut off what the outputs depend on, and one that
errs more there may do no harm below. What is tried is shares of the extremes and what other methods
say, in two steps, as few samples mislead where each of many tensors chooses by itself:

1. Which method is best for all tensors together. Everything is quantized by each method, and the
   error at the outputs is measured.
2. Which tensors are better with another range than by that method. The gradients of one backward
   pass, times the error that a tensor's readers make together under each range, say what each does
   (`docs/guide/estimated-scores.md`).

Ranges and choices depend on the samples, so each half of these is judged under ranges of the other.
Errors count as ratios, sample by sample: otherwise the one sample that errs most would choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate_side_by_side
from qgraph._quantize.companions import find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import FEWEST_JUDGED, Ranges
from qgraph._quantize.scheme import Calibration, Scheme, SchemeName
from qgraph._quantize.searched import SearchedRanges
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search, Spent, Trial
from qgraph._sensitivity.search.ratios import HALVED, gains, noise

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
"""Of the extremes, that a range may reach; the first is all."""
METHODS = (Calibration.PERCENTILE, Calibration.MSE, Calibration.ENTROPY)
"""Whose ranges are tried beside the shares."""
_SCORED = 16
"""Samples that are looked at, at most."""
_PASSES = 1
"""Backward passes a sample: positions and samples make up for the chance of one."""
_LIKELY = 0.5
"""Standard errors by which a method must be better than the extremes: of one choice for all tensors
little is chance, and the extremes grow with samples, so that halves flatter them."""
_SURE = 2.0
"""Standard errors by which another range must be better for a tensor: the best of many ranges for
each of many tensors beats the method by chance."""

Choice = Mapping[str, int]
"""Tensor → the number of the range that it gets; one that keeps its extremes is not named."""


@dataclass(frozen=True, slots=True, eq=False)
class _Learnt:
    """What samples say of ranges. `tried`: for each share and method, tensor → range."""

    search: Search
    nodes: Sequence[QuantizableNode]
    tried: Sequence[Mapping[str, Range]]

    def ranges(self, choice: Choice) -> dict[str, Range]:
        """Return tensor → the range that it gets."""
        return {name: self.tried[choice.get(name, 0)][name] for name in self.tried[0]}

    def throughout(self, number: int) -> Choice:
        """Return the choice of one range for every tensor."""
        return dict.fromkeys(self.tried[0], number)

    def quantization(self, choice: Choice) -> FakeQuantization:
        """Return what nodes read."""
        model, scheme = self.search.prepared.model, self.search.scheme
        ranges = self.ranges(choice)
        return fake_quantization(quantization_parameters(model, self.nodes, ranges, scheme))


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """Samples, and what others say of ranges."""

    learnt: _Learnt
    feeds: Sequence[Feed]

    @property
    def trial(self) -> Trial:
        """Return what is asked about these samples, by its model and nodes."""
        search = self.learnt.search
        return Trial(search, search.prepared, self.learnt.nodes, self.feeds)


def choose_clips(search: Search, ranges: Ranges) -> Ranges:
    """Return `ranges`, the extremes, with the clip of every tensor that is better clipped, by what
    the deadline allows to look at. `search` is about the model that they belong to, its smoothing
    done.
    """
    feeds = search.feeds[:_SCORED]
    if len(feeds) < FEWEST_JUDGED:
        return ranges
    choice: Choice = {}
    searched: SearchedRanges | None = SearchedRanges(cut_short=True)
    with suppress(Spent):
        for choice in _choices(search, feeds):  # noqa: B007 - the last is taken
            pass
        searched = None
    search.progress("choosing ranges", 4, 4)
    found = ranges.model_copy(update={"searched": searched})
    return (
        _with_clips(found, _learn(search, search.feeds), choice) if any(choice.values()) else found
    )


def _choices(search: Search, feeds: Sequence[Feed]) -> Iterator[Choice]:
    """Yield choices, each better than the one before.

    Raises:
        Spent: the deadline has passed.
    """
    middle = len(feeds) // 2  # not every other one: files of two kinds are read in turn
    halves = []
    for learnt, scored in ((feeds[middle:], feeds[:middle]), (feeds[:middle], feeds[middle:])):
        search.require_time()
        halves.append(_Half(_learn(search, learnt), scored))
    search.progress("choosing ranges", 0, 4)
    base = 0
    for base in _better_throughout(halves):
        yield halves[0].learnt.throughout(base)
    readers = _readers(halves[0].learnt.nodes)
    errors = []
    for number, half in enumerate(halves, start=1):
        search.progress("choosing ranges", number, 4)
        errors.append(_estimated(half, list(readers.values())))
    search.progress("choosing ranges", 3, 4)
    yield _confirmed(halves, list(readers), errors, base)


def _learn(search: Search, feeds: Sequence[Feed]) -> _Learnt:
    """Return what `feeds` say of ranges."""
    nodes = list(search.nodes(search.prepared))
    found = calibrate_side_by_side(
        search.prepared,
        nodes,
        feeds,
        _schemes(search.scheme),
        search.provider,
        search.memory,
        search.elsewhere if feeds is search.feeds else None,
    )
    shares = [
        {name: Range(share * item.rmin, share * item.rmax) for name, item in found[0].items()}
        for share in SHARES
    ]
    clipped = [{name: item.covered for name, item in each.items()} for each in found]
    nodes += [item.node for item in find_companions(search.prepared.model, nodes)]
    return _Learnt(search, nodes, [*shares, *clipped])


def _schemes(scheme: Scheme) -> list[Scheme]:
    """Return the scheme with each method that finds a clip for its numbers."""
    given = scheme.model_dump()
    return [
        Scheme.model_validate(given | {"calibrate": method, "percentile": None})
        for method in METHODS
        if not (scheme.name is SchemeName.FP8 and method is Calibration.ENTROPY)
    ]


def _better_throughout(halves: Sequence[_Half]) -> Iterator[int]:
    """Yield ranges for all tensors, each better than those before by what everything quantized
    measures; none where the extremes are best.
    """
    count = len(halves[0].learnt.tried)
    extremes, most = _measured(halves, [{}, {}]), 0.0
    for number in range(len(SHARES), count):
        choices = [half.learnt.throughout(number) for half in halves]
        found = gains(extremes, _measured(halves, choices))
        if METHODS[number - len(SHARES)] is Calibration.ENTROPY:
            found = found - HALVED
        if found.mean() > max(most, _LIKELY * noise(found)):
            most = float(found.mean())
            yield number


def _confirmed(
    halves: Sequence[_Half], names: Sequence[str], errors: Sequence[Array], base: int
) -> Choice:
    """Return for each tensor the range that errs least, `base` where that is not sure; for all of
    them, where what halves choose for each other measures worse together.
    """
    everywhere = halves[0].learnt.throughout(base)
    held = _holds(errors[0], errors[1], base)
    if not held.any():
        return everywhere
    own = [dict(everywhere) | _named(names, _least(of), held) for of in reversed(errors)]
    if gains(_measured(halves, [everywhere, everywhere]), _measured(halves, own)).mean() < 0:
        return everywhere
    return dict(everywhere) | _named(names, _least(np.concatenate(errors)), held)


def _readers(nodes: Sequence[QuantizableNode]) -> dict[str, Question]:
    """Return tensor → the nodes that read it quantized."""
    found: dict[str, set[str]] = {}
    for node in nodes:
        for _, name in node.activations:
            found.setdefault(name, set()).add(node.name)
    return {name: frozenset(readers) for name, readers in found.items()}


def _estimated(half: _Half, questions: Sequence[Question]) -> Array:
    """Return the error at the outputs of each tensor's readers under each range, float64 [samples,
    ranges, tensors]; infinity where no gradient tells.
    """
    learnt, search = half.learnt, half.learnt.search
    extremes = learnt.quantization({})
    others = [
        replace(extremes, scales=learnt.quantization(learnt.throughout(number)).scales)
        for number in range(1, len(learnt.tried))
    ]
    rows = half.trial.estimates([extremes, *others], questions, _PASSES)
    return np.array([[[error_of(search, item) for item in t] for t in row] for row in rows])


def error_of(search: Search, item: Sums) -> float:
    """Return what the search makes less: where outputs are compared in parts, noise to signal."""
    if item.failed:
        return np.inf
    return item.relative if search.scored.split is not None else item.error


def _least(errors: Array) -> Array:
    """Return the number of the best range of each tensor, over all samples."""
    found: Array = errors.sum(axis=0).argmin(axis=0)
    return found


def _holds(first: Array, second: Array, base: int) -> Array:
    """Return for each tensor whether the range that one half chooses is better than `base` on the
    other, both ways taken together, bool [tensors].
    """
    every = np.arange(first.shape[2])
    found = np.concatenate(
        [
            np.nan_to_num(one[:, base] - one[:, _least(other), every], nan=0.0)
            for one, other in ((first, second), (second, first))
        ]
    )
    with np.errstate(over="ignore", invalid="ignore"):  # a range that fails errs without bound
        sure = _SURE * found.std(axis=0, ddof=1) / np.sqrt(len(found))
        holds: Array = found.mean(axis=0) > sure
    return holds


def _named(names: Sequence[str], chosen: Array, held: Array) -> dict[str, int]:
    """Return the range of each tensor that does better with another."""
    found = zip(names, chosen, held, strict=True)
    return {name: int(number) for name, number, holds in found if holds}


def _measured(halves: Sequence[_Half], choices: Sequence[Choice]) -> Array:
    """Return the error of everything quantized, as it is, float64 [samples]."""
    rows = []
    for half, choice in zip(halves, choices, strict=True):
        learnt = half.learnt
        everything = frozenset(node.name for node in learnt.nodes)
        found = half.trial.measures(learnt.quantization(choice), [everything])
        rows += [error_of(learnt.search, item) for (item,) in found]
    return np.array(rows, np.float64)


def _with_clips(ranges: Ranges, learnt: _Learnt, choice: Choice) -> Ranges:
    """Return `ranges` with the clip of each tensor that `choice` names."""
    chosen = learnt.ranges(choice)
    tensors = [
        item.model_copy(update={"clip": max(-chosen[item.name].rmin, chosen[item.name].rmax)})
        if choice.get(item.name)
        else item
        for item in ranges.tensors
    ]
    return ranges.model_copy(update={"tensors": tuple(tensors)})

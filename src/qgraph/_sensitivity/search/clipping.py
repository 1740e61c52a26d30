"""The range of each activation, chosen by the error that it makes at the model's outputs.

A clip that a tensor's own error calls best may cut off what the outputs depend on, and one that
errs more there may do no harm below. So some ranges are tried on every tensor at once, shares of
its extremes and what other methods say: the gradients of one backward pass, times the error that
its readers make together under each, say what each does at the outputs
(`docs/guide/estimated-scores.md`).

Ranges and choices depend on the samples, so each half of these is scored under ranges of the other.
A tensor leaves its extremes where that helps samples that did not choose it, by a standard error at
least. Then everything is quantized and the error is measured: under these choices, under the
extremes, and under each other method throughout, for which one decides on tensors together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, Feed
from qgraph._metrics import Sums
from qgraph._quantize.calibration import calibrate
from qgraph._quantize.companions import find_companions
from qgraph._quantize.emit import fake_quantization, quantization_parameters
from qgraph._quantize.ranges import FEWEST_JUDGED, Ranges
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.asking import Search, Trial

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25)
"""Of the extremes, that a range may reach; the first is all."""
METHODS = (Calibration.PERCENTILE, Calibration.MSE)
"""Whose ranges are tried beside the shares."""
_SCORED = 16
"""Samples that are looked at, at most."""
_PASSES = 1
"""Backward passes a sample: positions and samples make up for the chance of one."""
_SURE = 1.0
"""Standard errors by which samples that did not choose a clip must gain by it."""

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
    """Return `ranges`, the extremes, with the clip of every tensor that is better clipped. `search`
    is about the model that they belong to, its smoothing done.
    """
    feeds = search.feeds[:_SCORED]
    if len(feeds) < FEWEST_JUDGED:
        return ranges
    middle = len(feeds) // 2  # not every other one: files of two kinds are read in turn
    parts = (feeds[middle:], feeds[:middle]), (feeds[:middle], feeds[middle:])
    halves = [_Half(_learn(search, learnt), scored) for learnt, scored in parts]
    readers = _readers(halves[0].learnt.nodes)
    names, errors = np.array(list(readers)), []
    for number, half in enumerate(halves):
        search.progress("choosing ranges", number, 3)
        errors.append(_estimated(half, list(readers.values())))
    search.progress("choosing ranges", 2, 3)
    held = _holds(*errors)
    own = [_named(names, _least(of), held) for of in reversed(errors)]
    best = _best(halves, own)
    everything = _learn(search, search.feeds)
    search.progress("choosing ranges", 3, 3)
    if best is None:
        return _with_clips(ranges, everything, _named(names, _least(np.concatenate(errors)), held))
    return _with_clips(ranges, everything, everything.throughout(best)) if best else ranges


def _learn(search: Search, feeds: Sequence[Feed]) -> _Learnt:
    """Return what `feeds` say of ranges."""
    nodes = list(search.nodes(search.prepared))
    found = []
    for method in METHODS:
        update = {"calibrate": method, "percentile": None}
        scheme = Scheme.model_validate(search.scheme.model_dump() | update)
        found.append(
            calibrate(search.prepared, nodes, feeds, scheme, search.run, memory=search.memory)
        )
    shares = [
        {item.name: Range(share * item.rmin, share * item.rmax) for item in found[0].tensors}
        for share in SHARES
    ]
    nodes += [item.node for item in find_companions(search.prepared.model, nodes)]
    return _Learnt(search, nodes, [*shares, *(item.by_name() for item in found)])


def _best(halves: Sequence[_Half], own: Sequence[Choice]) -> int | None:
    """Return the range that is best for all tensors, or None where `own` choices are, by what is
    measured with everything quantized.
    """
    extremes = _measured(halves, [{}, {}])
    choices: dict[int | None, Sequence[Choice]] = {None: own} if any(own) else {}
    for number in range(len(SHARES), len(SHARES) + len(METHODS)):
        choices[number] = [half.learnt.throughout(number) for half in halves]
    found = {number: _measured(halves, choice) for number, choice in choices.items()}
    best = min(found, key=lambda number: float(found[number].sum()))
    return best if _is_less(found[best], extremes) else 0


def _is_less(errors: Array, others: Array) -> bool:
    """Return whether errors are less in total, and by a standard error as a ratio: where one sample
    errs most, the others say more of chance.
    """
    if not errors.sum() < others.sum():
        return False
    tiny = np.finfo(np.float64).tiny
    gains = np.log(np.maximum(others, tiny)) - np.log(np.maximum(errors, tiny))
    return bool(gains.mean() > _SURE * gains.std(ddof=1) / np.sqrt(len(gains)))


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
    return np.array([[[_error(search, item) for item in t] for t in row] for row in rows])


def _error(search: Search, item: Sums) -> float:
    """Return what the search makes less: where outputs are compared in parts, noise to signal."""
    if item.failed:
        return np.inf
    return item.relative if search.scored.split is not None else item.error


def _least(errors: Array) -> Array:
    """Return the number of the best share of each tensor, over all samples."""
    found: Array = errors.sum(axis=0).argmin(axis=0)
    return found


def _holds(first: Array, second: Array) -> Array:
    """Return for each tensor whether the clip that one half chooses helps the other, both ways
    taken together, bool [tensors].
    """
    every = np.arange(first.shape[2])
    gains = np.concatenate(
        [
            np.nan_to_num(one[:, 0] - one[:, _least(other), every], nan=0.0)
            for one, other in ((first, second), (second, first))
        ]
    )
    noise = gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    found: Array = gains.mean(axis=0) > _SURE * noise
    return found


def _named(names: Array, chosen: Array, held: Array) -> dict[str, int]:
    """Return the range of each tensor that does better with another than its extremes."""
    found = zip(names[held], chosen[held], strict=True)
    return {str(name): int(number) for name, number in found if number}


def _measured(halves: Sequence[_Half], choices: Sequence[Choice]) -> Array:
    """Return the error of everything quantized, as it is, float64 [samples]."""
    rows = []
    for half, choice in zip(halves, choices, strict=True):
        learnt = half.learnt
        everything = frozenset(node.name for node in learnt.nodes)
        found = half.trial.measures(learnt.quantization(choice), [everything])
        rows += [_error(learnt.search, item) for (item,) in found]
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

"""Ways to quantize a model, measured side by side: the likeliest first, until forwards run out.

Each method of calibration, strengths for all tensors, rotations, then strengths for groups of
tensors that play the same part; each with some sets of nodes quantized.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from qgraph._graph.tensors import Array
from qgraph._quantize.learnt import Way
from qgraph._quantize.scheme import Calibration
from qgraph._quantize.smooth.plan import Strengths
from qgraph._quantize.smooth.points import SmoothPoint
from qgraph._sensitivity.scoring.questions import Question
from qgraph._sensitivity.search.ratios import HALVED, gains, noise
from qgraph._sensitivity.search.rig import Rig, sizes_of

_STRENGTHS = (0.5, 0.7)
_FURTHER = {0.5: 0.4, 0.7: 0.8}
_LESS = {0.5: 0.4, 0.7: 0.6}
_OF_GROUP = (0.5, 0.8)
_WORTH = 0.1
"""By what share an explicit Mul must bring the error down: it costs time."""
_QUIET = 1e-4
"""Noise to signal of everything quantized up to which no tensor is rotated at a price."""
_FAR = math.log(4)
"""What smoothing gains where clips alone are left out."""
_MASSIVE = 100
"""The largest channel, in typical ones, from which on a tensor is of a group of its own."""


class Ladder:
    """Ways, and what they measure: with everything and with parts quantized."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.plain = Way()
        self._sets = _sets(rig)
        self._forwards = len(rig.judged) * len(self._sets)  # that a way takes
        self._groups = _groups(rig.learnt.all)
        absorbed = [point for point in rig.learnt.points if point.absorbers]
        self._points = absorbed or rig.learnt.points  # those with a Mul must win it group by group
        self.errors: dict[Way, Array] = {}
        self.noises: dict[Way, Array] = {}
        self.sqnrs: dict[Way, float | None] = {}  # dB of everything quantized
        self.dearer: set[Way] = set()

    def gains(self, way: Way, over: Way | None = None) -> Array:
        """Return how much less a way errs than another, plain by default, as the logarithm of a
        ratio, float64 [samples, places · sets]; measured where it was not.
        """
        return gains(self.errors_of(over or self.plain), self.errors_of(way))

    def gain(self, way: Way, over: Way | None = None) -> Array:
        """Return the same as the mean over the sets, float64 [samples]."""
        found: Array = self.gains(way, over).mean(1)
        return found

    def errors_of(self, way: Way) -> Array:
        """Return the errors of samples, with each set at the outputs, then at each further place,
        float64 [samples, places · sets].
        """
        if way not in self.errors:
            self.noises[way], signals, *found = self._rig.errors(way, self._sets)
            self.sqnrs[way] = _sqnr_db(self.noises[way][:, -1], signals[:, -1])
            self.errors[way] = np.concatenate(found, axis=1)
        return self.errors[way]

    def gain_at_outputs(self, way: Way) -> float:
        """Return the mean gain over plain by the outputs alone."""
        return float(self.gains(way)[:, : len(self._sets)].mean())

    def gains_of_sets(self, way: Way) -> Array:
        """Return gains over plain, the mean over places, float64 [samples, sets]."""
        found = self.gains(way)
        by_place: Array = found.reshape(len(found), -1, len(self._sets)).mean(1)
        return by_place

    def worth(self, way: Way) -> float:
        """Return the mean gain, less what groups of tensors with an explicit Mul must bring, and
        what entropy must, and rotations that are not absorbed.
        """
        smoothed = dict(way.strengths)
        muls = sum(
            any(point in smoothed for point in group)
            for group in self._groups
            if not group[0].absorbers
        )
        rotates = any(not point.turns for point, _ in way.rotated)
        dear = rotates + (way.method is Calibration.ENTROPY)
        price = _WORTH * muls + HALVED * dear
        return float(self.gain(way).mean()) - price

    def noise_of(self, way: Way) -> Array:
        """Return the noise to signal of samples, float64 [samples, sets]."""
        self.errors_of(way)
        return self.noises[way]

    def is_loud(self, way: Way) -> bool:
        """Return whether everything quantized errs so much that rotations are worth a price."""
        return bool(self.noise_of(way)[:, -1].mean() > _QUIET)

    def best(self, of: Sequence[Way]) -> Way:
        """Return the way with the largest gain."""
        return max(of, key=lambda each: float(self.gain(each).mean()))

    def is_better(self, way: Way, than: Way, errors: float = 0.5) -> bool:
        """Return whether a way gains by more than so many standard errors."""
        found = self.gain(way, than)
        return bool(found.mean() > max(0.0, errors * noise(found)))

    def climb(self) -> None:
        """Measure what is worth it, until forwards run out: the likeliest first."""
        points = self._points
        strong = [_uniform(points, alpha) for alpha in _STRENGTHS] if points else []
        clipped = [Way(method) for method in self._rig.learnt.methods]
        for clip, alike in zip_longest(clipped, strong):
            if clip is not None and self._may_clip(clip):
                self.gain(clip)
            if alike is not None:
                self.gain(alike)
        measured = [each for each in clipped if each in self.errors]
        method = max([self.plain, *measured], key=self.worth)
        smooth = self.best([self.plain, *strong])
        smooth = self._rotated_freely(smooth)
        if self._rotate(smooth):
            return
        if self.plain not in (method, smooth):
            self.gain(replace(smooth, method=method.method))
        if smooth.strengths:
            further = _uniform(points, _FURTHER[smooth.strengths[0][1]])
            further = replace(further, rotated=smooth.rotated)
            smooth = self._by_groups(self.best([smooth, further]))
            if method is not self.plain:
                self.gain(replace(smooth, method=method.method))

    def _may_clip(self, way: Way) -> bool:
        """Return whether clips are worth a try: not where smoothing brought much, and entropy only
        where what was tried has a quarter of what it must gain.
        """
        known = self.gain(self.best(list(self.errors))).mean()
        return bool(known <= _FAR) and (
            way.method is not Calibration.ENTROPY or bool(known >= HALVED / 4)
        )

    def _rotated_freely(self, start: Way) -> Way:
        """Return a way with what costs nothing rotated, if that is better."""
        blocks = self._rig.blocks
        turned = blocks if self.is_loud(start) else self._rig.free
        if turned:  # looking takes a run of all samples
            self._rig.require(self._forwards)
        strengths = (0.0, *_STRENGTHS)
        self._rig.learnt.see_rotated([(p, turned[p], a) for p in turned for a in strengths])
        if not self._rig.free:
            return start
        found = replace(start, rotated=tuple(self._rig.free.items()))
        return found if self.is_better(found, start) else start

    def _rotate(self, start: Way) -> bool:
        """Measure ways that rotate what linears read, at the strengths of `start` first; return
        whether one pays.
        """
        blocks = self._rig.blocks
        if len(blocks) == len(self._rig.free) or not self.is_loud(start):
            return False
        first = replace(start, rotated=tuple(blocks.items()))
        if self.gain(first, start).mean() < 0:
            return False
        tried = [first]
        if self.worth(first) >= self.worth(start) and first.strengths:
            # for it alone: what is left decides which rotations are found to gain too little
            self._rig.allow(self._forwards)
            tried.append(self._relaxed(first))
        tried += [replace(_uniform(self._points, a), rotated=first.rotated) for a in _STRENGTHS]
        found = self.best(tried)
        if self.worth(found) < self.worth(start):
            return False
        for group in reversed(self._groups):
            without = tuple(pair for pair in found.rotated if pair[0] not in group)
            if len(without) < len(found.rotated) and not group[0].turns:
                other = replace(found, rotated=without)
                if self.gain(found, other).mean() < _WORTH:
                    self.dearer.add(found)
                    found = other
        return True

    def _relaxed(self, way: Way) -> Way:
        """Return a rotated way with less strength where channels are largest: the rotation has
        spread them, so the weights need not take so much.
        """
        strongest = _part(self._groups[0][0])
        return replace(
            way,
            strengths=tuple(
                (point, _LESS.get(alpha, alpha) if _part(point) == strongest else alpha)
                for point, alpha in way.strengths
            ),
        )

    def _by_groups(self, start: Way) -> Way:
        """Return a way with the strength of tensors that play the same part changed together,
        where that gains, and without Muls that do not take away enough.
        """
        for group in self._groups:
            own = dict.fromkeys(group, 0.0)
            left = tuple(pair for pair in start.strengths if pair[0] not in own)
            others = [
                replace(start, strengths=(*left, *((p, a) for p in group))) for a in _OF_GROUP
            ]
            if len(self._groups) > 1:
                found = self.best(
                    [each for each in others if set(each.strengths) != set(start.strengths)]
                )
                start = found if self.is_better(found, start) else start
            without = replace(start, strengths=left)
            if not group[0].absorbers and self.gain(start, without).mean() < _WORTH:
                start = without
        return start


def _sqnr_db(noises: Array, signals: Array) -> float | None:
    """Return dB over all samples, as of scores: an answer near 0 errs much for its size, and would
    decide the mean of ratios. None where there is no error, no signal, or no bound.
    """
    with np.errstate(invalid="ignore"):  # what fails has neither
        error, signal = float((noises * signals).sum()), float(signals.sum())
    return 10 * math.log10(signal / error) if 0 < error < math.inf else None


def _uniform(points: Sequence[SmoothPoint], alpha: float) -> Way:
    return Way(None, tuple((point, alpha) for point in points))


def _part(point: SmoothPoint) -> str:
    """Return what the first reader of a tensor is called, without numbers: the part it plays."""
    return re.sub(r"\d+", "", point.quantized[0])


def _groups(known: Strengths) -> list[list[SmoothPoint]]:
    """Return points whose first readers are called alike but for numbers, those with the largest
    channels first; explicit Muls apart, and tensors with a massive channel.
    """
    found: dict[tuple[str, bool, bool], list[SmoothPoint]] = {}
    spread = {point: known.spread(point) for point in known.points}
    for point in sorted(known.points, key=lambda each: -spread[each]):
        kind = _part(point), bool(point.absorbers), spread[point] > _MASSIVE
        found.setdefault(kind, []).append(point)
    return list(found.values())


def _sets(rig: Rig) -> list[Question]:
    """Return the sets of nodes that harm least, and all."""
    units = rig.units
    harms = rig.errors(Way(), [rig.with_companions(unit) for unit in units], rig.solo)[0].sum(0)
    order = [name for at in np.argsort(harms, kind="stable") for name in units[at]]
    return [rig.with_companions(order[:size]) for size in sizes_of(len(order))]

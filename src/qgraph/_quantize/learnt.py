"""What samples say of ranges and of strengths, from one run: of all of them, and of all but a part.

Each part of the samples is judged under what the others say, as data that ranges do not know will
be. A clip comes from all samples, and reaches no further than the extremes of those others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.observers import Thresholded
from qgraph._quantize.calibrate.views import Counted, Glance, Look, Shows, View
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.scheme import Calibration, Scheme
from qgraph._quantize.smooth.factors import weight_peaks
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.plan import Strengths
from qgraph._quantize.smooth.points import SmoothPoint

METHODS = (Calibration.MSE, Calibration.PERCENTILE)
"""That find a clip in a histogram and were best on some model; entropy never was by more than
noise, and loses 8 dB on others."""

Clips = Mapping[str, float]
_Rotated = tuple[SmoothPoint, int, float]
"""A point, the channels of its blocks, and its strength."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to quantize everything. `method`: by which ranges are clipped, None for the extremes;
    `strengths`: point → strength, those at 0 left out; `rotated`: point → channels of its blocks.
    """

    method: Calibration | None = None
    strengths: tuple[tuple[SmoothPoint, float], ...] = ()
    rotated: tuple[tuple[SmoothPoint, int], ...] = ()

    def is_part_of(self, other: Way) -> bool:
        """Return whether it leaves out clips, smoothing or rotations that the other has, and is the
        same but for that.
        """
        own, others = ((way.method, way.strengths, way.rotated) for way in (self, other))
        pairs = list(zip(own, others, strict=True))
        return self != other and all(a == b or not a for a, b in pairs)


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The largest magnitude of a tensor, and of its channels where a point reads it."""

    largest: float
    channels: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Learning:
    """Whose ranges are learnt from what. `digests`: of each sample; `look`: shows what samples
    make of tensors.
    """

    prepared: PreparedModel
    nodes: Sequence[QuantizableNode]
    feeds: Sequence[Feed]
    digests: Sequence[str]
    scheme: Scheme
    look: Look


class Learnt:
    """What samples say; `points`: what may be smoothed; `parts`: the numbers of samples that are
    judged together, none where there are too few. `peaks`: of each part, tensor → peaks; where
    another process saw them, no sample is run, and no clip is known.
    """

    def __init__(
        self,
        asked: Learning,
        points: Sequence[SmoothPoint],
        peaks: Sequence[Mapping[str, Peaks]] | None = None,
    ) -> None:
        self._asked, self.points = asked, points
        self.parts = folds_of(asked.digests)
        nodes = asked.nodes
        self._tensors = list(dict.fromkeys(name for node in nodes for _, name in node.activations))
        seen, peaks = self._run() if peaks is None else ({}, peaks)
        self.peaks = peaks
        self.clips: Mapping[Calibration, Clips] = {
            method: {name: each[number] for name, each in seen.items()}
            for number, method in enumerate(METHODS)
        }
        weights = {point.tensor: weight_peaks(asked.prepared.model, point) for point in points}
        others = [[p for p in peaks if p is not own] for own in peaks]
        everything = _largest(peaks, self._tensors)
        # of a tensor that is 0 in the others they say nothing
        self._extremes = [
            {name: most or everything[name] for name, most in _largest(of, self._tensors).items()}
            for of in others
        ]
        self._strengths = [Strengths(points, _channels(of, points), weights) for of in others]
        self.all = Strengths(points, _channels(peaks, points), weights)
        self._turned: dict[_Rotated, list[float]] = {}

    def _run(self) -> tuple[dict[str, list[float]], Sequence[Mapping[str, Peaks]]]:
        """Return tensor → where each method clips it, and of each part tensor → peaks."""
        spatial = {point.tensor: point.spatial for point in self.points}
        counted = [View(name, Shows.HISTOGRAM) for name in self._tensors]
        peaked = [
            View(name, Shows.CHANNELS, spatial[name])
            if name in spatial
            else View(name, Shows.EXTREMES)
            for name in self._tensors
        ]
        glances = [Glance(counted, self._all), *(Glance(peaked, part) for part in self.parts)]
        counts, *parts = self._asked.look(glances)
        clips = {
            name: _clips(self._schemes, each)
            for name, each in zip(self._tensors, counts, strict=True)
        }
        return clips, [
            {
                name: Peaks(each.largest, each.peaks if name in spatial else None)
                for name, each in zip(self._tensors, states, strict=True)
            }
            for states in parts
        ]

    @property
    def _all(self) -> range:
        return range(len(self._asked.feeds))

    @property
    def _schemes(self) -> list[Scheme]:
        given = self._asked.scheme.model_dump()
        plain = {"smooth": "none", "percentile": None}
        return [Scheme.model_validate({**given, **plain, "calibrate": each}) for each in METHODS]

    def clips_at(self, strengths: Mapping[SmoothPoint, float], method: Calibration) -> Clips:
        """Return tensor → where `method` clips what is smoothed so; it takes another run."""
        number = METHODS.index(method)
        views = [
            View(p.tensor, Shows.HISTOGRAM, p.spatial, self.all.at(p, alpha).factors)
            for p, alpha in strengths.items()
        ]
        (found,) = self._asked.look([Glance(views, self._all)])
        return {
            view.tensor: _clips([self._schemes[number]], each)[0]
            for view, each in zip(views, found, strict=True)
        }

    def see_rotated(self, turned: Collection[_Rotated]) -> None:
        """Look at points in blocks of so many channels at these strengths; it takes another run."""
        unseen = [each for each in turned if each not in self._turned]
        if not unseen:
            return
        glances = [
            Glance(
                [
                    View(p.tensor, Shows.ROTATED, 0, known.at(p, alpha).factors, block)
                    for p, block, alpha in unseen
                ],
                [number for number in self._all if number not in part],
            )
            for part, known in zip(self.parts, self._strengths, strict=True)
        ]
        found = self._asked.look(glances)
        for at, each in enumerate(unseen):
            self._turned[each] = [states[at].largest for states in found]

    def rotated_peaks(self, way: Way) -> list[dict[str, float]]:
        """Return for each part tensor → its largest magnitude where it is rotated, in the others;
        left out where they are 0.
        """
        strengths = dict(way.strengths)
        turned = [(point, block, strengths.get(point, 0.0)) for point, block in way.rotated]
        self.see_rotated(turned)
        found: list[dict[str, float]] = [{} for _ in self.parts]
        for each in turned:
            for peaks, largest in zip(found, self._turned[each], strict=True):
                if largest:
                    peaks[each[0].tensor] = largest
        return found

    def quantization(
        self, way: Way, clips: Clips, part: int, rotated: Mapping[str, float]
    ) -> FakeQuantization:
        """Return what nodes compute with on samples of a part, by what the others say; `rotated`:
        of the part, what `rotated_peaks` says.
        """
        strengths, known = dict(way.strengths), self._strengths[part]
        limits = dict(self._extremes[part])
        for point, alpha in strengths.items():
            limits[point.tensor] = known.range_at(point, alpha).rmax
        limits |= rotated
        ranges = {name: _range(most, clips.get(name)) for name, most in limits.items()}
        factors = {
            point: np.asarray(known.at(point, alpha).factors, np.float32)
            for point, alpha in strengths.items()
        }
        model, scheme = self._asked.prepared.model, self._asked.scheme
        nodes, blocks = self._asked.nodes, dict(way.rotated)
        return quantization_in_place(model, nodes, ranges, scheme, factors, blocks)


def _clips(schemes: Sequence[Scheme], seen: Counted) -> list[float]:
    """Return where each scheme clips what was counted."""
    thresholds = Thresholded(*schemes)
    thresholds.observe(seen.seen)
    return [each.clip or 0.0 for each in thresholds.results()]


def _range(most: float, clip: float | None) -> Range:
    limit = most if clip is None else min(most, clip)
    return Range(-limit, limit)


def _largest(parts: Collection[Mapping[str, Peaks]], tensors: Sequence[str]) -> dict[str, float]:
    return {name: max((part[name].largest for part in parts), default=0.0) for name in tensors}


def _channels(
    parts: Collection[Mapping[str, Peaks]], points: Sequence[SmoothPoint]
) -> dict[str, Array | None]:
    found: dict[str, Array | None] = {}
    for point in points:
        held = [part[point.tensor].channels for part in parts]
        peaks = [each for each in held if each is not None]
        found[point.tensor] = reduce(np.maximum, peaks) if peaks else None
    return found

"""What samples say of ranges and of strengths, from one run: of all of them, and of all but a part.

Each part of the samples is judged under what the others say, as data that ranges do not know will
be: with the extremes, the clips and the factors of these.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.probe import Range
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.histogram import Histogram
from qgraph._quantize.calibrate.observers import Thresholded
from qgraph._quantize.calibrate.views import Glance, Look, Shows, View
from qgraph._quantize.calibration import folds_of
from qgraph._quantize.scheme import Calibration, Scheme, SchemeName
from qgraph._quantize.smooth.in_place import quantization_in_place
from qgraph._quantize.smooth.plan import Strengths, weight_peaks
from qgraph._quantize.smooth.points import SmoothPoint

_METHODS = (Calibration.MSE, Calibration.ENTROPY, Calibration.PERCENTILE)
"""That find a clip in a histogram and were best on some model, in the order they are tried."""

Clips = Mapping[str, float]
_Smoothed = tuple[str, float]
"""A tensor, and its strength."""
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
        nodes, self._index = asked.nodes, GraphIndex(asked.prepared.model)
        self._tensors = list(dict.fromkeys(name for node in nodes for _, name in node.activations))
        self._counts: dict[_Smoothed, _Counts] = {}
        self.peaks = peaks = self._run() if peaks is None else peaks
        weights = {point.tensor: weight_peaks(self._index, point) for point in points}
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

    def _run(self) -> Sequence[Mapping[str, Peaks]]:
        """Return of each part tensor → peaks, and keep what is counted of them."""
        spatial = {point.tensor: point.spatial for point in self.points}
        counted = [View(name, Shows.HISTOGRAM) for name in self._tensors]
        peaked = [
            View(name, Shows.CHANNELS, spatial[name])
            if name in spatial
            else View(name, Shows.EXTREMES)
            for name in self._tensors
        ]
        if not self.parts:
            return []
        found = self._asked.look([Glance([*counted, *peaked], part) for part in self.parts])
        for at, name in enumerate(self._tensors):
            self._counts[name, 0.0] = _Counts([states[at].seen for states in found])
        return [
            {
                name: Peaks(each.largest, each.peaks if name in spatial else None)
                for name, each in zip(self._tensors, states[len(counted) :], strict=True)
            }
            for states in found
        ]

    @property
    def _all(self) -> range:
        return range(len(self._asked.feeds))

    @property
    def methods(self) -> tuple[Calibration, ...]:
        """Return what may clip under the scheme; entropy weighs even levels, which FP8 has not."""
        even = self._asked.scheme.name is not SchemeName.FP8
        return tuple(each for each in _METHODS if even or each is not Calibration.ENTROPY)

    def clips_of(self, way: Way, without: int | None = None) -> Clips:
        """Return tensor → where the way clips it, by all samples or those outside of a part; what
        is rotated has no clip, as nothing stands out in it. Of strengths that were not looked at
        before it takes another run.
        """
        if way.method is None:
            return {}
        self._see_smoothed(way.strengths)
        given = {"smooth": "none", "percentile": None, "calibrate": way.method}
        scheme = Scheme.model_validate(self._asked.scheme.model_dump() | given)
        strengths = {point.tensor: alpha for point, alpha in way.strengths}
        turned = {point.tensor for point, _ in way.rotated}
        return {
            name: self._counts[name, strengths.get(name, 0.0)].clip(scheme, without)
            for name in self._tensors
            if name not in turned
        }

    def _see_smoothed(self, strengths: Collection[tuple[SmoothPoint, float]]) -> None:
        unseen = [(p, alpha) for p, alpha in strengths if (p.tensor, alpha) not in self._counts]
        if not unseen:
            return
        views = [
            View(p.tensor, Shows.HISTOGRAM, p.spatial, self.all.factors(p, alpha))
            for p, alpha in unseen
        ]
        found = self._asked.look([Glance(views, part) for part in self.parts])
        for at, (point, alpha) in enumerate(unseen):
            self._counts[point.tensor, alpha] = _Counts([states[at].seen for states in found])

    def see_rotated(self, turned: Collection[_Rotated]) -> None:
        """Look at points in blocks of so many channels at these strengths; it takes another run."""
        unseen = [each for each in turned if each not in self._turned]
        if not unseen:
            return
        glances = [
            Glance(
                [
                    View(p.tensor, Shows.ROTATED, 0, known.factors(p, alpha), block)
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
            point: np.asarray(known.factors(point, alpha), np.float32)
            for point, alpha in strengths.items()
        }
        nodes, scheme = self._asked.nodes, self._asked.scheme
        blocks = dict(way.rotated)
        return quantization_in_place(self._index, nodes, ranges, scheme, factors, blocks)


class _Counts:
    """What was counted of a tensor in each part of the samples."""

    def __init__(self, parts: Sequence[Histogram]) -> None:
        self._parts = parts
        self._known: dict[tuple[Calibration, int | None], float] = {}

    def clip(self, scheme: Scheme, without: int | None) -> float:
        """Return where the scheme clips what was seen in all parts but one; in all, where the
        others hold nothing but zeros.
        """
        key = scheme.calibrate, without
        if key not in self._known:
            counted = Thresholded(scheme)
            for at, part in enumerate(self._parts):
                if at != without:
                    counted.observe(part)
            found = counted.result().clip or 0.0
            self._known[key] = found or (self.clip(scheme, None) if without is not None else 0.0)
        return self._known[key]


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

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
from qgraph._graph.io.rescaling import hadamard
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.channels import ChannelPeaks
from qgraph._quantize.calibrate.observers import Thresholded
from qgraph._quantize.calibrate.walk import Sees, show, values_of
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


class _Seen:
    """Sees one tensor, divided by `factors` where there are any: where each scheme clips it."""

    def __init__(self, schemes: Sequence[Scheme], factors: Array | None = None) -> None:
        self._factors, self.thresholds = factors, Thresholded(*schemes)

    def observe(self, values: Array) -> None:
        """Take in one array."""
        if self._factors is not None:
            values = values / self._factors
        self.thresholds.observe(values)


class Peaks:
    """Sees the largest magnitude of one tensor, and of its channels where a point reads it."""

    def __init__(self, spatial: int | None) -> None:
        self.largest = 0.0
        self.channels = None if spatial is None else ChannelPeaks(spatial)

    def observe(self, values: Array) -> None:
        """Take in one array."""
        if self.channels is not None:
            self.channels.observe(values)
            assert self.channels.peaks is not None  # noqa: S101 - it has just seen some
            self.largest = float(self.channels.peaks.max())
        else:
            low, high = float(values.min()), float(values.max())
            self.largest = max(self.largest, -low, high)


class _Turned:
    """Sees the largest magnitude of one tensor divided by `factors` and rotated in blocks."""

    def __init__(self, factors: Array, block: int) -> None:
        self._factors, self._matrix, self.largest = factors, hadamard(block), 0.0

    def observe(self, values: Array) -> None:
        """Take in one array."""
        rows = (values / self._factors).astype(np.float32).reshape(-1, len(self._matrix))
        self.largest = max(self.largest, float(np.abs(rows @ self._matrix).max(initial=0.0)))


@dataclass(frozen=True, slots=True, eq=False)
class Learning:
    """Whose ranges are learnt from what. `digests`: of each sample."""

    prepared: PreparedModel
    nodes: Sequence[QuantizableNode]
    feeds: Sequence[Feed]
    digests: Sequence[str]
    scheme: Scheme
    provider: Provider
    memory: Memory | None = None


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
        found = {name: each.thresholds.results() for name, each in seen.items()}
        self.clips: Mapping[Calibration, Clips] = {
            method: {name: each[number].clip or 0.0 for name, each in found.items()}
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
        self._turned: dict[_Rotated, list[_Turned]] = {}

    def _run(self) -> tuple[dict[str, _Seen], Sequence[Mapping[str, Peaks]]]:
        spatial = {point.tensor: point.spatial for point in self.points}
        seen = {name: _Seen(self._schemes) for name in self._tensors}
        peaks = [{n: Peaks(spatial.get(n)) for n in self._tensors} for _ in self.parts]
        own = {number: [peaks[at]] for at, part in enumerate(self.parts) for number in part}
        self._show(seen, own)
        return seen, peaks

    def _show(
        self, seen: Mapping[str, Sees], others: Mapping[int, Sequence[Mapping[str, Sees]]]
    ) -> None:
        asked = self._asked
        values = values_of(
            asked.prepared, list(seen), asked.feeds, asked.provider, memory=asked.memory
        )
        show(seen, values, others)

    @property
    def _schemes(self) -> list[Scheme]:
        given = self._asked.scheme.model_dump()
        plain = {"smooth": "none", "percentile": None}
        return [Scheme.model_validate({**given, **plain, "calibrate": each}) for each in METHODS]

    def clips_at(self, strengths: Mapping[SmoothPoint, float], method: Calibration) -> Clips:
        """Return tensor → where `method` clips what is smoothed so; it takes another run."""
        factors = {
            point.tensor: _along(point, self.all.at(point, alpha).factors)
            for point, alpha in strengths.items()
        }
        number = METHODS.index(method)
        seen = {name: _Seen([self._schemes[number]], each) for name, each in factors.items()}
        self._show(seen, {})
        return {name: each.thresholds.result().clip or 0.0 for name, each in seen.items()}

    def see_rotated(self, turned: Collection[_Rotated]) -> None:
        """Look at points in blocks of so many channels at these strengths; it takes another run."""
        asked, unseen = self._asked, [each for each in turned if each not in self._turned]
        if not unseen:
            return
        found: dict[str, list[list[_Turned]]] = {}
        for point, block, alpha in unseen:
            factors = [known.at(point, alpha).factors for known in self._strengths]
            seen = [_Turned(np.asarray(each, np.float32), block) for each in factors]
            self._turned[point, block, alpha] = seen
            found.setdefault(point.tensor, []).append(seen)
        values = values_of(
            asked.prepared, list(found), asked.feeds, asked.provider, memory=asked.memory
        )
        for number, name, array in values:
            for of_parts in found[name]:
                for part, seen_by in zip(self.parts, of_parts, strict=True):
                    if number not in part:
                        seen_by.observe(array)

    def rotated_peaks(self, way: Way) -> list[dict[str, float]]:
        """Return for each part tensor → its largest magnitude where it is rotated, in the others;
        left out where they are 0.
        """
        strengths = dict(way.strengths)
        turned = [(point, block, strengths.get(point, 0.0)) for point, block in way.rotated]
        self.see_rotated(turned)
        found: list[dict[str, float]] = [{} for _ in self.parts]
        for each in turned:
            for peaks, seen in zip(found, self._turned[each], strict=True):
                if seen.largest:
                    peaks[each[0].tensor] = seen.largest
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


def _along(point: SmoothPoint, factors: Sequence[float]) -> Array:
    vector: Array = np.asarray(factors, np.float32).reshape(-1, *[1] * point.spatial)
    return vector


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
        peaks = [each.peaks for each in held if each is not None and each.peaks is not None]
        found[point.tensor] = reduce(np.maximum, peaks) if peaks else None
    return found

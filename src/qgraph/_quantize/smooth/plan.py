"""From samples to a smoothed model, and from `ranges.json` to the same model again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.index import GraphIndex, is_half
from qgraph._graph.io.weights import array_of
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.fidelity import differing
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.calibrate.views import Glance, Look, Shows, View, look_at
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.smooth.apply import Step, smooth
from qgraph._quantize.smooth.points import SmoothPoint, find_points

TOLERANCE = 1e-4
"""What smoothing may change in a float output, of its largest magnitude. Measured: 1e-6."""
_TOLERANCE_HALF = 1e-2
"""The same where the graph holds float16 or bfloat16: steps of float16 are 5e-4."""


class Strengths:
    """What points are divided by at any strength. `peaks`: tensor → max |x| of each channel, of
    None seen 1; `weights`: tensor → max |w| of each channel's row, float32 [channels].
    """

    def __init__(
        self,
        points: Sequence[SmoothPoint],
        peaks: Mapping[str, Array | None],
        weights: Mapping[str, Array],
    ) -> None:
        self.points, self.weights = points, weights
        self._peaks: dict[str, Array] = {
            point.tensor: np.ones(point.channels, np.float32) if seen is None else seen
            for point in points
            for seen in [peaks[point.tensor]]
        }
        self._made: dict[tuple[str, float], tuple[float, ...]] = {}

    def at(self, point: SmoothPoint, alpha: float, block: int = 1) -> SmoothedTensor:
        """Return a point smoothed with strength `alpha`, 0 for as it is, and rotated in blocks of
        at most so many channels.
        """
        block = point.block(block)
        return SmoothedTensor(
            tensor=point.tensor,
            alpha=alpha,
            quantized=point.quantized,
            factors=self.factors(point, alpha),
            rotation=block if block > 1 else None,
        )

    def factors(self, point: SmoothPoint, alpha: float) -> tuple[float, ...]:
        """Return what each channel of a point is divided by at strength `alpha`."""
        if not alpha:
            return (1.0,) * point.channels
        key = point.tensor, alpha
        if key not in self._made:  # searches ask for the same again and again
            self._made[key] = self._factors(point, alpha)
        return self._made[key]

    def _factors(self, point: SmoothPoint, alpha: float) -> tuple[float, ...]:
        peaks, weights = self._peaks[point.tensor], self.weights[point.tensor]
        if point.heads:
            peaks, weights = point.heads.largest(peaks), point.heads.largest(weights)
        factors = smoothing_factors(peaks, weights, alpha)
        return tuple(float(f"{factor:.6g}") for factor in factors)

    def range_at(self, point: SmoothPoint, alpha: float) -> Range:
        """Return the range of a tensor smoothed with strength `alpha`, 0 for as it is: by its
        largest magnitude.
        """
        peaks = self._peaks[point.tensor]
        if alpha:
            peaks = peaks / np.asarray(self.factors(point, alpha), np.float32)
        largest = float(peaks.max())
        return Range(-largest, largest)

    def spread(self, point: SmoothPoint) -> float:
        """Return the largest channel of a point's tensor, in typical ones: their median."""
        peaks = self._peaks[point.tensor]
        return float(peaks.max() / max(float(np.median(peaks)), float(np.finfo(np.float32).tiny)))

    def everywhere(self, alpha: float) -> tuple[SmoothedTensor, ...]:
        """Return every point smoothed with the same strength, except where that would put a Mul
        before a convolution: on a whole feature map that is for a search to find worth its time.
        """
        points = (point for point in self.points if point.absorbers or not point.spatial)
        return tuple(self.at(point, alpha) for point in points)

    def rotated(self, made: Sequence[SmoothedTensor], block: int) -> tuple[SmoothedTensor, ...]:
        """Return `made` with every tensor rotated that can be, in blocks of at most `block`."""
        strengths = {item.tensor: item.alpha for item in made}
        every = (self.at(p, strengths.get(p.tensor, 0.0), block) for p in self.points)
        return tuple(item for item in every if item.alpha or item.rotation)


class SmoothingPlan(Strengths):
    """The points of a model and the largest magnitude of each of their channels.

    Takes one pass over the samples; factors of any strength then cost nothing. `elsewhere`: has
    other processes run them.

    Raises:
        InputError: NaN or infinity arises.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        candidates: Sequence[QuantizableNode],
        feeds: Sequence[Feed],
        provider: Provider = Provider.CPU,
        progress: Progress = silent,
        memory: Memory | None = None,
        elsewhere: Look | None = None,
    ) -> None:
        points = find_points(prepared.model, candidates)
        views = [View(point.tensor, Shows.CHANNELS, point.spatial) for point in points]
        glances = [Glance(views, range(len(feeds)))]
        (seen,) = look_at(prepared, feeds, glances, provider, progress, memory, elsewhere)
        peaks = {view.tensor: each.peaks for view, each in zip(views, seen, strict=True)}
        index = GraphIndex(prepared.model)
        weights = {point.tensor: weight_peaks(index, point) for point in points}
        super().__init__(points, peaks, weights)


def smoothed(
    prepared: PreparedModel,
    smoothing: Sequence[SmoothedTensor],
    left: Collection[str] = frozenset(),
) -> PreparedModel:
    """Return the model with `smoothing` applied; node names stay. Before the nodes in `left` no
    product is put: they read what they read, by the weights they have.

    Raises:
        UsageError: the smoothing names a tensor, nodes or channels the model does not have.
    """
    if not smoothing:
        return prepared
    known = {node.name: node for node in quantizable_nodes(prepared.model)[0]}
    wanted = {item.tensor: item for item in smoothing}
    nodes = [known[n] for item in smoothing for n in item.quantized if n in known]
    points = [p for p in find_points(prepared.model, nodes) if p.tensor in wanted]
    _require_found(points, wanted)
    steps = [
        Step(point, np.asarray(item.factors, np.float32), item.rotation or 1, reached)
        for point in points
        for item in [wanted[point.tensor]]
        for reached in [tuple(name for name in point.quantized if name not in left)]
    ]
    return smooth(prepared, steps)


def behind_products(
    before: PreparedModel, after: PreparedModel, smoothing: Sequence[SmoothedTensor]
) -> frozenset[str]:
    """Return the nodes that read the product of what they read before `smoothing` was applied."""
    old, new = (GraphIndex(item.model).by_name for item in (before, after))
    names = (name for item in smoothing for name in item.quantized)
    return frozenset(name for name in names if old[name].input[0] != new[name].input[0])


def _require_found(points: Sequence[SmoothPoint], wanted: Mapping[str, SmoothedTensor]) -> None:
    found = {point.tensor: point for point in points}
    for name, item in wanted.items():
        point = found.get(name)
        if point is None or not _fits(point, item):
            raise UsageError(
                f"tensor {name!r} cannot be smoothed as the file says: the model has no such"
                f" tensor of {len(item.factors)} channels that {', '.join(item.quantized)} read",
                where="ranges: smoothing",
                hint="Calibrate again with this model.",
            )


def _fits(point: SmoothPoint, item: SmoothedTensor) -> bool:
    blocks = point.block(item.rotation or 1) == (item.rotation or 1)
    alike = point.channels == len(item.factors) and set(point.quantized) == set(item.quantized)
    return alike and blocks and _are_shared(point, item)


def _are_shared(point: SmoothPoint, item: SmoothedTensor) -> bool:
    factors = np.asarray(item.factors, np.float32)
    return point.heads is None or bool(np.array_equal(point.heads.largest(factors), factors))


class ChangedError(InputError):
    """Smoothing or rotating changed what the float model computes."""


def require_unchanged(
    before: PreparedModel,
    after: PreparedModel,
    feed: Feed,
    provider: Provider,
    memory: Memory | None = None,
) -> None:
    """Check on one sample that every float output is as it was, the cache included.

    Raises:
        ChangedError: an output is off by more than the tolerance.
    """
    runners = [Runner(m.model, memory, provider, allow_cpu_nodes=True) for m in (before, after)]
    outputs = [runner.run([feed], before.outputs)[0] for runner in runners]
    tolerance = _TOLERANCE_HALF if is_half(before.model) else TOLERANCE
    for name in differing(outputs[0], outputs[1], tolerance):
        raise ChangedError(
            "smoothing or rotating changed what the float model computes",
            where=f"output {name!r}",
            hint="Run with --smooth none --rotate none, and please report this model.",
        )


_DIGITS = 4
"""Significant digits of a factor: any value near the best is as good, and files stay small."""
_WIDEST = 1e4
"""Between a factor and the typical one of its tensor."""


def smoothing_factors(peaks: Array, weights: Array, alpha: float) -> Array:
    """Return s float32 [C]: peaks^α / weights^(1−α) (SmoothQuant, Xiao et al., 2023, eq. 4).

    `peaks`: max |X| per channel; `weights`: max |W| over each channel's row. Only ratios matter to
    a quantizer, so the geometric mean is 1, which keeps magnitudes where they were. A channel that
    is 0 throughout, in X or in W, gets 1.
    """
    there = (peaks > 0) & (weights > 0)
    if not there.any():
        return np.ones(peaks.shape, np.float32)
    log = alpha * np.log(peaks[there], dtype=np.float64)
    log -= (1 - alpha) * np.log(weights[there], dtype=np.float64)
    log -= log.mean()
    factors = np.ones(peaks.shape, np.float64)
    factors[there] = np.exp(np.clip(log, -np.log(_WIDEST), np.log(_WIDEST)))
    return _rounded(factors)


def _rounded(factors: Array) -> Array:
    size = 10.0 ** (np.floor(np.log10(factors)) - (_DIGITS - 1))
    result: Array = (np.rint(factors / size) * size).astype(np.float32)
    return result


def weight_peaks(index: GraphIndex, point: SmoothPoint) -> Array:
    """Return max |W| over each input channel of the quantized readers, float32 [C]."""
    names = {operand.node: operand for operand in point.readers}
    nodes = [(index.by_name[name], names[name]) for name in point.quantized]
    wanted = {node.input[operand.index]: operand.axis for node, operand in nodes}
    held = index.initializers
    peaks: Array = np.max([_row_peaks(held[name], axis) for name, axis in wanted.items()], axis=0)
    return peaks


def _row_peaks(tensor: onnx.TensorProto, axis: int) -> Array:
    weight = array_of(tensor)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peaks: Array = np.abs(weight).max(axis=others).astype(np.float32)
    return peaks

"""What an fp32 model shows over data: how large its tensors and the sums inside its nodes get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from qgraph._graph.edit.gauges import Gauge, GaugeFitter, only_moves, reductions
from qgraph._graph.edit.nodes import CONVOLUTIONS, QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.index import GraphIndex
from qgraph._graph.io.weights import array_of
from qgraph._graph.progress import Progress
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed, pieces


@dataclass(frozen=True, slots=True)
class Seen:
    """`high`, `low`: extremes over all samples. `loss`: ‖x − fp16(x)‖ / ‖x‖, of the worst sample
    (below 2⁻¹¹ unless values are too small or too large for fp16). `broken`: held NaN or infinity.
    """

    high: float = 0.0
    low: float = 0.0
    loss: float = 0.0
    broken: bool = False

    @property
    def peak(self) -> float:
        return max(self.high, -self.low)


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """`tensors`: by name, in graph order. `sums`: node → what a partial sum inside it can reach."""

    tensors: Mapping[str, Seen]
    sums: Mapping[str, float]


def observe(
    prepared: PreparedModel,
    feeds: Sequence[Feed],
    provider: Provider,
    memory: Memory | None,
    progress: Progress,
) -> ValueFacts:
    """Return what every fp32 tensor and every sum of an fp32 model reaches over `feeds`."""
    model = prepared.model
    fitter = GaugeFitter(model)
    index = GraphIndex(model)
    types = index.types
    made = [
        (node, name)
        for node in index.nodes
        for name in node.output
        if name and types.get(name) == onnx.TensorProto.FLOAT
    ]
    # what a Cast makes of whole numbers has not been looked at before
    moved = {
        node.name
        for node, _ in made
        if only_moves(node)
        and any(types.get(read) == onnx.TensorProto.FLOAT for read in node.input)
    }
    gauges = {name: fitter.on(name) for node, name in made if node.name not in moved}
    inner = {
        node.name: fitter.sum_inside(node) for node in reductions(model) if node.output[0] in gauges
    }
    products = [item for item in quantizable_nodes(model)[0] if item.output in gauges]
    lengths = {item.name: _lengths(fitter, item) for item in products}
    fitter.finish()
    wanted = [name for gauge in gauges.values() for name in gauge.names]
    wanted += [*inner.values(), *(name for names in lengths.values() for name in names)]
    runner = Runner(fitter.model, memory, provider, allow_cpu_nodes=True)
    runs = runner.run(feeds, list(dict.fromkeys(wanted)), progress, "looking at fp32 ranges")
    # of an empty tensor the largest is −∞
    largest = {name: max(0.0, *(float(run[name]) for run in runs)) for name in wanted}
    seen = {name: _seen(gauge, runs) for name, gauge in gauges.items()}
    seen |= {spec.name: _fed(spec.name, feeds) for spec in prepared.inputs if spec.name in feeds[0]}
    for node, name in made:
        if node.name in moved:
            seen[name] = _together([seen[read] for read in node.input if read in seen])
    sums = {name: largest[gauge] for name, gauge in inner.items()}
    for item in products:
        reached = _product(item, index.initializers, [largest[name] for name in lengths[item.name]])
        # of terms that add up to y, those of one sign reach at most half of Σ|terms| and of |y|
        sums[item.name] = (reached + seen[item.output].peak) / 2
    return ValueFacts(seen, sums)


def _lengths(fitter: GaugeFitter, item: QuantizableNode) -> list[str]:
    """Return gauges that bound Σ|a·b| inside a product (Cauchy and Schwarz; Hölder for windows)."""
    data = item.activations[0][1]
    if item.op_type in CONVOLUTIONS:
        return [fitter.length_along(data, 1)]
    left = fitter.length_along(data, -1)
    if item.weight is not None:
        return [left]
    return [left, fitter.length_along(item.activations[1][1], -2)]


def _product(
    item: QuantizableNode, weights: Mapping[str, onnx.TensorProto], found: Sequence[float]
) -> float:
    if item.weight is None:
        return found[0] * found[1]
    values = array_of(weights[item.weight.tensor])
    if item.op_type in CONVOLUTIONS:
        # at each tap the channels' products are at most the product of their lengths
        summed = 1 if item.op_type == "Conv" else 0
        channels = np.square(values, dtype=np.float64).sum(axis=summed)
        return found[0] * float(np.sqrt(channels).reshape(len(channels), -1).sum(axis=1).max())
    return found[0] * _longest(values, item.weight.axis or 0)


def _longest(matrix: Array, axis: int) -> float:
    """Return the largest Euclidean length of the vectors that `axis` counts."""
    squares = [np.square(part, dtype=np.float64).sum(axis=1 - axis) for part in pieces(matrix)]
    lengths = np.concatenate(squares) if axis == 0 else np.sum(squares, axis=0)
    return math.sqrt(float(lengths.max()))


def _seen(gauge: Gauge, runs: Sequence[Mapping[str, Array]]) -> Seen:
    found = []
    for run in runs:
        high, low, lost, energy = (float(run[name]) for name in gauge.names)
        broken = math.isnan(energy) or (math.isinf(high) and high >= low) or low == -math.inf
        if high >= low or broken:  # else it was empty
            found.append(Seen(high, low, _loss(lost, energy), broken))
    return _together(found)


def _fed(name: str, feeds: Sequence[Feed]) -> Seen:
    """Return what is seen of an input, 0 of one that holds no floats."""
    arrays = [feed[name] for feed in feeds if feed[name].dtype == np.float32 and feed[name].size]
    return _together([_array(array) for array in arrays])


def _array(values: Array) -> Seen:
    with np.errstate(over="ignore", invalid="ignore"):
        off: Array = values - values.astype(np.float16).astype(np.float32)
        lost, energy = (float(np.square(item, dtype=np.float64).sum()) for item in (off, values))
    broken = not np.isfinite(values).all()
    return Seen(float(values.max()), float(values.min()), _loss(lost, energy), broken)


def _together(parts: Sequence[Seen]) -> Seen:
    return Seen(
        high=max((part.high for part in parts), default=0.0),
        low=min((part.low for part in parts), default=0.0),
        loss=max((part.loss for part in parts), default=0.0),
        broken=any(part.broken for part in parts),
    )


def _loss(lost: float, energy: float) -> float:
    """Return the share of a tensor that rounding takes; what overflows shows in its extremes."""
    known = math.isfinite(lost) and math.isfinite(energy) and energy > 0
    return math.sqrt(lost / energy) if known else 0.0

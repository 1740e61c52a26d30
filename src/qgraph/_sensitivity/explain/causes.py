"""Why a node is sensitive, from one more pass over a sample, and what may help.

What is looked at is local: the node's own output, with only its activation or only its weight
quantized, and the channels of what it reads. It explains the score; the score is not made from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import MATMULS, QuantizableNode
from qgraph._graph.edit.peaks import insert_peaks
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.shadows import Side, insert_shadows
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed
from qgraph._quantize.ranges import SmoothedTensor
from qgraph._quantize.scheme import SEARCHED, Calibration, Scheme, WeightScale
from qgraph._quantize.smooth.layers import ScaledLayer, layer_of
from qgraph._sensitivity.beside_scores import Cause

_OUTLIER = 10.0
"""From here on the largest channel leaves the median one 12 of the 127 steps."""
_NARROW = 16
"""A product with fewer rows or columns gains nothing from INT8 kernels."""
_MOSTLY = 0.5
_ROTATED = 16
"""Channels of a block from which on a rotation spreads a loud one far enough."""
_CALIBRATED = {
    Calibration.MINMAX: "--calibrate percentile or mse",
    Calibration.MOVING_AVERAGE: "--calibrate percentile or mse",
    Calibration.AUTO: "--calibrate output",
}
"""What may help against errors of all channels, where ranges are found so."""
_THROUGH = {"Mul", "Cast", "Identity", "Reshape", "Transpose"}


def causes(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    feed: Feed,
    memory: Memory,
    provider: Provider = Provider.CPU,
    smoothing: Sequence[SmoothedTensor] = (),
    *,
    scheme: Scheme,
) -> dict[str, Cause]:
    """Return node → what makes it sensitive, seen on one sample. `smoothing`, `scheme`: what was
    done to the model already, and how it is quantized: what this has is no remedy.
    """
    sides = (Side.ACTIVATION, Side.WEIGHT)
    shadows = insert_shadows(prepared.model, nodes, quantization, sides)
    peaks = insert_peaks(shadows.model, nodes)
    runner = Runner(shadows.model, memory, provider, weights=shadows.weights, tuned=False)
    (seen,) = runner.run([feed], [*shadows.outputs, *peaks.values()], title="looking for causes")
    structure = _Structure(prepared.model)
    done = {name: item for item in smoothing for name in item.quantized}
    found: dict[str, Cause] = {}
    for node in nodes:
        errors = {side: float(seen[shadows.errors[node.name, side]]) for side in sides}
        channels = seen.get(peaks.get(node.name, ""))
        found[node.name] = _cause(node, errors, channels, structure, done.get(node.name), scheme)
    return found


def _cause(
    node: QuantizableNode,
    errors: Mapping[Side, float],
    channels: Array | None,
    structure: _Structure,
    done: SmoothedTensor | None,
    scheme: Scheme,
) -> Cause:
    total = sum(errors.values())
    # squares beyond float32 leave no ratio to share
    known = total > 0 and math.isfinite(total)
    cause = Cause(
        activation_share=errors[Side.ACTIVATION] / total if known else None,
        outlier_ratio=_outlier_ratio(channels),
        dead_channels=None if channels is None else int(np.count_nonzero(channels == 0)),
        narrow=_is_narrow(node),
        residual=node.output in structure.residual,
        after_softmax=any(name in structure.from_softmax for _, name in node.activations),
        why="",
        remedy="",
    )
    loud = _against_loud_channels(structure.layer(node), done, scheme)
    why, remedy = _explain(node, cause, loud, scheme) if known else _without_share(total)
    return cause.model_copy(update={"why": why, "remedy": remedy})


def _explain(node: QuantizableNode, cause: Cause, loud: str, scheme: Scheme) -> tuple[str, str]:
    """Return what weighs most in words, and what may help against it: `loud` against channels."""
    share, ratio = cause.activation_share or 0.0, cause.outlier_ratio
    if cause.after_softmax:
        return (
            "its input is a softmax's probabilities, most of them close to 0: one scale for all"
            " rounds the small ones away",
            "keep it float",
        )
    if cause.narrow:
        return (
            f"its weight is only {_size(node)}: errors do not average out, and INT8 gains nothing",
            "keep it float",
        )
    if share < _MOSTLY:
        return (
            f"{1 - share:.0%} of its error comes from its weights",
            _or_float("--weights mse" if scheme.weights is WeightScale.MAX else ""),
        )
    if ratio is not None and ratio >= _OUTLIER:
        return (
            f"the largest channel of its input is {ratio:.0f} times the median one, so most"
            " channels get few of the 127 steps",
            loud,
        )
    return (
        f"{share:.0%} of its error comes from its input activations, from all channels alike",
        _or_float(_CALIBRATED.get(scheme.calibrate, "")),
    )


def _against_loud_channels(
    layer: ScaledLayer | None, done: SmoothedTensor | None, scheme: Scheme
) -> str:
    """Return what may help against loud channels, beside what was done or tried already."""
    if layer is None or scheme.searches_together:
        return "keep it float"
    smooths = scheme.smooth == SEARCHED or (done is not None and done.alpha)
    ways = [] if smooths else ["--smooth auto"]
    rotates = not layer.along.spatial and layer.along.channels % _ROTATED == 0
    if rotates and (done is None or done.rotation is None):
        ways.append("--rotate 128")
    return _or_float(" and ".join(ways))


def _or_float(way: str) -> str:
    return f"{way}, or keep it float" if way else "keep it float"


def _without_share(total: float) -> tuple[str, str]:
    """Return the words for an error that has no shares: none at all, or one without measure."""
    if total == 0:
        return "quantizing it changes nothing at its output", "quantize it"
    return "the error at its output is beyond float32", "keep it float"


def _outlier_ratio(channels: Array | None) -> float | None:
    """Return largest ÷ median channel peak; None where the median is 0, or no value was read."""
    if channels is None or not channels.size:
        return None
    median = float(np.median(channels))
    ratio = float(channels.max()) / median if median else math.nan
    return ratio if math.isfinite(ratio) else None


def _is_narrow(node: QuantizableNode) -> bool:
    """Return whether a product is too small on one side to gain from INT8."""
    if node.weight is None or node.op_type not in MATMULS:
        return False
    return min(node.weight.shape) < _NARROW


def _size(node: QuantizableNode) -> str:
    return " × ".join(map(str, node.weight.shape)) if node.weight else ""


class _Structure:
    """`residual`: tensors added to something that does not come from them; `from_softmax`: those
    that are a softmax's output, reshaped or scaled at most.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.from_softmax: set[str] = set()
        self.residual: set[str] = set()
        self._index = index = GraphIndex(model)
        for node in index.nodes:
            read = [name for name in node.input if name in index.producer]
            if node.op_type == "Softmax" or (
                node.op_type in _THROUGH and self.from_softmax.intersection(node.input)
            ):
                self.from_softmax |= set(node.output)
            if node.op_type == "Add" and len(read) == 2:
                self.residual |= set(read)

    def layer(self, node: QuantizableNode) -> ScaledLayer | None:
        """Return how smoothing rescales a node, None where it cannot."""
        return layer_of(self._index.by_name[node.name], node)

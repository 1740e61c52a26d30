"""How strongly each channel is smoothed."""

from __future__ import annotations

import numpy as np
import onnx

from qgraph._graph.index import GraphIndex
from qgraph._graph.io.weights import array_of
from qgraph._graph.tensors import Array
from qgraph._quantize.smooth.points import SmoothPoint

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


def weight_peaks(model: onnx.ModelProto, point: SmoothPoint) -> Array:
    """Return max |W| over each input channel of the quantized readers, float32 [C]."""
    names = {operand.node: operand for operand in point.readers}
    index = GraphIndex(model)
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

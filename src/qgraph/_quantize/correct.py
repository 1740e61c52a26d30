"""Bias correction: quantization shifts the mean of a node's output, a float bias takes that back.

E[y − ŷ] of each output channel (Nagel et al., 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2, measured on samples instead of derived): y as the
float node computes it, ŷ with its inputs quantized, both from the float tensors. So a shift is a
node's own, whatever else a profile quantizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qgraph._graph.edit.biases import Bias, channel_axis, find_biases, with_biases
from qgraph._graph.edit.fake_quantize import FakeQuantization
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.shadows import Side, insert_shadows
from qgraph._graph.edit.widen import FeedsInSingle, in_single
from qgraph._graph.index import GraphIndex, is_half
from qgraph._graph.io.weights import array_of
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed

_SURE = 2.0
"""Standard errors over the samples that a shift must exceed: less is the samples' own noise, which
would be added to every other sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """`prepared`: with other biases; `biases`: node → the one that was changed."""

    prepared: PreparedModel
    biases: Mapping[str, Bias]


def mean_shifts(
    prepared: PreparedModel,
    nodes: Sequence[QuantizableNode],
    quantization: FakeQuantization,
    feeds: Sequence[Feed],
    provider: Provider = Provider.CPU,
    progress: Progress = silent,
    memory: Memory | None = None,
) -> dict[str, Array]:
    """Return node → mean of float less quantized output, float64 [channels], of nodes with a bias.

    A channel whose shift is less than twice its standard error over the samples has 0.
    """
    found = find_biases(prepared.model, nodes)
    chosen = {node.name: node for node in nodes if node.name in found}
    if provider is Provider.CPU and is_half(prepared.model):
        prepared, feeds = in_single(prepared), FeedsInSingle(feeds)
        quantization = quantization.in_single()
    shadows = insert_shadows(prepared.model, list(chosen.values()), quantization)
    runner = Runner(shadows.model, memory or Memory.of(None), provider, weights=shadows.weights)
    names = {shadows.differences[name, Side.BOTH]: name for name in chosen}
    means: dict[str, list[Array]] = {name: [] for name in chosen}
    for _, tensor, values in runner.visit(feeds, list(names), progress, "correcting biases"):
        if values.size:
            axis = channel_axis(chosen[names[tensor]]) % values.ndim
            others = tuple(i for i in range(values.ndim) if i != axis)
            means[names[tensor]].append(values.mean(axis=others, dtype=np.float64))
    return {name: _sure(np.array(rows)) for name, rows in means.items() if rows}


def _sure(means: Array) -> Array:
    """Return the mean of float64 [samples, channels] over samples, 0 where it is not sure; a single
    sample is taken at its word.
    """
    mean: Array = means.mean(axis=0)
    if len(means) == 1:
        return mean
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    return np.where(np.abs(mean) > _SURE * error, mean, 0.0)


def correct(
    prepared: PreparedModel, nodes: Sequence[QuantizableNode], shifts: Mapping[str, Array]
) -> Corrected:
    """Return the model in which the biases of `nodes`, and no other, have taken their shifts."""
    biases = {
        name: bias
        for name, bias in find_biases(prepared.model, nodes).items()
        if name in shifts and shifts[name].any()
    }
    tensors = GraphIndex(prepared.model).initializers
    values = {}
    for name, bias in biases.items():
        before = array_of(tensors[bias.tensor])
        after = before + np.broadcast_to(shifts[name], before.shape)
        values[bias] = after.astype(before.dtype)
    return Corrected(replace(prepared, model=with_biases(prepared.model, values)), biases)

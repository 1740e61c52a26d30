"""Converting models to fp16 on the way to their Q/DQ forms: what `quantize --dtype fp16` adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qgraph._graph.edit.narrow import before_narrowing
from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import Range
from qgraph._graph.run.session import Provider
from qgraph._graph.tensors import Feed
from qgraph._quantize.half.convert import Half, to_half
from qgraph._steps.inputs import AnyPath, paths
from qgraph._steps.model import DEFAULT_SAMPLES, load_data, open_model

SUFFIX = "fp16"
"""Of the names of what is converted: `A-fp16.onnx`; alone, the name of the baseline."""


@dataclass(slots=True, eq=False)
class AsHalf:
    """Converts models to fp16; what overflows is judged on `feeds`. `synthetic`: made up."""

    feeds: Sequence[Feed]
    synthetic: bool
    provider: Provider = Provider.CPU
    progress: Progress = silent
    _done: dict[bool, Half] = field(default_factory=dict)

    def __call__(self, prepared: PreparedModel, *, smoothed: bool = False) -> Half:
        """Return the one model this is for, or its smoothed form, in fp16; worked out once.

        Raises:
            InputError: it is half precision already, or fp16 breaks it whatever is kept in fp32.
        """
        if smoothed not in self._done:
            memory = Memory.of(None)
            made = to_half(prepared, self.feeds, self.provider, self.progress, memory)
            self._done[smoothed] = made
        return self._done[smoothed]


def as_half(
    model: AnyPath,
    *,
    data: Sequence[AnyPath] = (),
    samples: int = DEFAULT_SAMPLES,
    provider: Provider = Provider.CPU,
    seed: int = 0,
    progress: Progress = silent,
) -> AsHalf:
    """Return what converts `model`, and forms of it, to fp16: for `write_quantized`.

    Without `data`, samples come from what qgraph.json beside the model names, else are made up.
    """
    loaded = load_data(open_model(Path(model)), paths(data), samples, seed)
    return AsHalf(loaded.feeds, loaded.synthetic, Provider(provider), progress)


def in_half(half: Half, nodes: Sequence[QuantizableNode]) -> list[QuantizableNode]:
    """Return the same nodes as the fp16 model has them, reading what they read there."""
    found = {node.name: node for node in quantizable_nodes(half.prepared.model)[0]}
    protos = {node.name: node for node in half.prepared.model.graph.node}
    return [
        found.get(node.name)
        or replace(
            node,
            activations=tuple((i, protos[node.name].input[i]) for i, _ in node.activations),
            output=protos[node.name].output[0],
        )
        for node in nodes
    ]


def ranges_in_half(
    nodes: Sequence[QuantizableNode], known: Mapping[str, Range]
) -> dict[str, Range]:
    """Return the ranges of what `nodes` of an fp16 model read, from those of the fp32 one."""
    names = {name for node in nodes for _, name in node.activations}
    return {name: known[before_narrowing(name)] for name in names}

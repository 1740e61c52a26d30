"""Converting models to fp16 on the way to their Q/DQ forms: what `quantize --dtype fp16` adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qgraph._graph.edit.narrow import before_narrowing
from qgraph._graph.edit.nodes import QuantizableNode, quantizable_nodes
from qgraph._graph.index import GraphIndex
from qgraph._graph.run.probe import Range
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.half.convert import Half, to_half
from qgraph._steps.data import Data
from qgraph._steps.model import Model

SUFFIX = "fp16"
"""Of the names of what is converted: `A-fp16.onnx`; alone, the name of the baseline."""


@dataclass(slots=True, eq=False)
class AsHalf:
    """Converts a model and smoothed forms of it to fp16; what overflows is judged on `data`. The
    last is kept: forms come one after the other.
    """

    data: Data
    runtime: Runtime
    _done: tuple[Model, Half] | None = None

    def __call__(self, model: Model) -> Half:
        """Return the model in fp16; worked out once for those that follow each other.

        Raises:
            InputError: it is half precision already, or fp16 breaks it whatever is kept in fp32.
        """
        if self._done is None or self._done[0] is not model:
            self._done, runtime = None, self.runtime
            with self.data.named():
                made = to_half(
                    model.prepared, self.data.feeds, runtime.provider, runtime.progress,
                    runtime.memory,
                )  # fmt: skip
            self._done = model, made
        return self._done[1]


def nodes_in_half(half: Half, nodes: Sequence[QuantizableNode]) -> list[QuantizableNode]:
    """Return the same nodes as the fp16 model has them, reading what they read there."""
    found = {node.name: node for node in quantizable_nodes(half.prepared.model)[0]}
    protos = GraphIndex(half.prepared.model).by_name
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

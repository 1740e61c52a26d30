"""What the first sample shows of a model: shapes and types between parts, and of outputs."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx

from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import look
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import declared
from qgraph._graph.tensors import Feed, specs_of


@dataclass(frozen=True, slots=True)
class SampleTensor:
    """A tensor of the first sample: how a part declares it, its shape and bytes."""

    value: onnx.ValueInfoProto
    shape: tuple[int, ...]
    bytes: int


def seen_on(
    prepared: PreparedModel,
    feed: Feed,
    outputs: Sequence[str],
    crossing: Set[str],
    memory: Memory,
    provider: Provider,
    most: int | None,
) -> dict[str, SampleTensor]:
    """Return what the first sample shows of outputs and of what crosses between parts: by what the
    model declares where that says it, else by running it.
    """
    model = prepared.model
    known = {spec.name: spec for spec in (*prepared.inputs, *specs_of(model.graph.output))}
    sizes = {
        size: number
        for spec in prepared.inputs
        if spec.ranked
        for size, number in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(size, str) and size
    }
    names = dict.fromkeys((*crossing, *outputs))
    declares = {n: known[n].shape for n in names if n in known and known[n].ranked}
    said = [dim for name in names for dim in declares.get(name, ("",))]
    if all(isinstance(dim, int) or dim in sizes for dim in said):
        shapes = {
            n: tuple(d if isinstance(d, int) else sizes[d] for d in declares[n]) for n in names
        }
        blank = {n: np.empty(shapes[n], known[n].dtype) for n in names}
    else:
        (blank,) = look(
            model, [feed], list(names), memory, provider, part=most, allow_cpu_nodes=True
        )
    return {n: SampleTensor(declared(model, n, a), a.shape, a.nbytes) for n, a in blank.items()}

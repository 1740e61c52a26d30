"""Whether a rewritten model still computes what it did before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qgraph._graph.bodies import sort_nodes
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.errors import InputError
from qgraph._graph.index import opset_of
from qgraph._graph.io.models import read_lazily
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed, is_float

_TOLERANCE = 1e-3
"""Of an output's largest magnitude: far above what another order of sums does, far below what
another meaning of an operator does."""


def require_same_outputs(
    prepared: PreparedModel, feed: Feed, provider: Provider, memory: Memory | None = None
) -> None:
    """Check that converting the opset did not change what the model computes.

    onnx's converter lets some operators change their meaning between opsets (Resize, for one).

    Raises:
        InputError: an output differs.
    """
    source = read_lazily(prepared.path)
    sort_nodes(source.graph)  # one part of it may be run at a time
    outputs = [
        Runner(model, memory, provider, allow_cpu_nodes=True).run([feed], prepared.outputs)[0]
        for model in (source, prepared.model)
    ]
    before, after = outputs
    for name in differing(before, after, _TOLERANCE):
        raise InputError(
            f"converted from opset {prepared.source_opset}, the model computes something else",
            where=f"{prepared.path}: output {name!r}",
            hint=f"Export it with opset {opset_of(prepared.model)} or a newer one.",
        )


def differing(
    before: Mapping[str, Array], after: Mapping[str, Array], tolerance: float
) -> Iterator[str]:
    """Yield the outputs that are off by more than `tolerance` of their largest magnitude."""
    for name, wanted in before.items():
        got = after[name]
        same = wanted.shape == got.shape
        if same and is_float(wanted.dtype) and wanted.size:
            room = tolerance * float(np.abs(wanted.astype(np.float32)).max()) + 1e-6
            off = np.abs(wanted.astype(np.float32) - got.astype(np.float32)).max()
            same = bool(off <= room)
        if not same:
            yield name

"""Running a model over a few feeds, whatever its size: what golden files are made with.

Large models are run part by part, cut at the same places on every machine, so that the same files
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from qgraph._graph.edit.segments import move_to_readers
from qgraph._graph.io.models import read_on_disk
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Semantics, open_session
from qgraph._graph.run.streamed import Runner, float32_bytes, weight_bytes
from qgraph._graph.tensors import Feed

WHOLE = 512 << 20
"""Bytes of weights, as fp32, up to which a model is run in one piece: a session takes a few times
that, as onnxruntime dequantizes constant weights and packs them."""
PART = 128 << 20
"""The same of a part of a larger one. A weight larger than that is a part by itself."""


def run_all(
    model: Path,
    feeds: Sequence[Feed],
    semantics: Semantics = Semantics.EXACT,
    change: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> list[Feed]:
    """Return the outputs of the model in `model` for each feed. `change`: what to make of its graph
    before, whose large weights are not in it.

    Raises:
        InputError: onnxruntime cannot run it.
    """
    graph = read_on_disk(model)
    widened = float32_bytes(graph)
    if change is not None:
        graph = change(graph)
    if widened <= WHOLE:
        session = open_session(graph if change is not None else model, semantics=semantics)
        return [session.run(feed) for feed in feeds]
    move_to_readers(graph)
    names = [value.name for value in graph.graph.output]
    part = PART * weight_bytes(graph) // widened
    runner = Runner(graph, Memory.of(None), semantics=semantics, part=part)
    return [{name: found[name] for name in names} for found in runner.run(feeds, names)]

"""Running a model over a few feeds, whatever its size: for golden files, and for MACs of nodes.

Large models are run part by part, cut at the same places on every machine, so that the same files
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import helper

from qgraph._graph.edit.inline import inline_functions
from qgraph._graph.edit.macs import macs_of
from qgraph._graph.edit.segments import move_to_readers
from qgraph._graph.io.models import read_on_disk
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.probe import with_shapes
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
    inline_functions(graph)
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


def measured_macs(model: onnx.ModelProto, path: Path, feed: Feed) -> dict[str, int]:
    """Return node → multiply-accumulates where `model`, which lies in `path`, is run on `feed`: the
    same count as an evaluation's, whether an engine has INT8 for a node or not.

    Raises:
        InputError: onnxruntime cannot run it.
    """
    return macs_of(model, lambda asked: _shapes(path, asked, feed) if asked else {})


def _shapes(path: Path, tensors: Sequence[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    names: dict[str, str] = {}

    def showing(graph: onnx.ModelProto) -> onnx.ModelProto:
        shown, found = with_shapes(graph, tensors)
        names.update(found)
        del shown.graph.output[:]
        shown.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None])
            for name in found.values()
        )
        return shown

    (seen,) = run_all(path, [feed], change=showing)
    return {name: tuple(map(int, seen[shape])) for name, shape in names.items()}

"""Looking inside a graph while it runs: values and shapes of inner tensors.

What a sample makes mostly has the same shape whatever weights hold: for shapes they are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qgraph._graph.bodies import bodies_of, copied, weave_in
from qgraph._graph.edit.prepare import PreparedModel
from qgraph._graph.edit.segments import SHAPE_OPS
from qgraph._graph.errors import InputError
from qgraph._graph.gradient.sizing import shapes_on
from qgraph._graph.index import GraphIndex, reads
from qgraph._graph.io.weights import LAZY, is_on_disk
from qgraph._graph.progress import Progress, silent
from qgraph._graph.run.memory import Memory
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.run.streamed import Runner
from qgraph._graph.tensors import Array, Feed, OnDemand, is_float

_AT_ONCE = 256 << 20
"""Bytes of inner tensors that one run hands out; more are fetched by running again."""
_FIRST = 32
"""Tensors fetched at once while their sizes are unknown."""


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and largest value a tensor took."""

    rmin: float
    rmax: float


def watch(
    prepared: PreparedModel,
    tensors: Sequence[str],
    feeds: Sequence[Feed],
    provider: Provider,
    progress: Progress = silent,
    memory: Memory | None = None,
) -> Iterator[tuple[int, str, Array]]:
    """Yield (number of the feed, tensor, values) for every tensor and feed: feed by feed, tensors
    in graph order; where the model is larger than `memory`, part of it by part, all feeds through
    each.

    Values have the shape and dtype of the tensor and are finite; empty ones are left out. Memory
    does not grow with the number of feeds, but by what crosses from part to part.

    Raises:
        InputError: NaN or infinity arises (the first node that makes it is named), or no feed was
            given.
    """
    if not feeds:
        raise InputError("no sample was given to calibrate with")
    ordered = _in_graph_order(prepared.model, tensors)
    memory = memory or Memory.of(None)
    runner = Runner(prepared.model, memory, provider, room=max(1, memory.left // 4))
    if runner.in_parts:
        seen = runner.visit(feeds, ordered, progress, "calibrating")
    else:
        seen = _whole(prepared, ordered, feeds, provider, progress)
    for index, name, values in seen:
        if not _is_finite(values):
            raise _fault(prepared, feeds[index], name, memory, provider)
        if values.size:
            yield index, name, values


def _whole(
    prepared: PreparedModel,
    tensors: Sequence[str],
    feeds: Sequence[Feed],
    provider: Provider,
    progress: Progress,
) -> Iterator[tuple[int, str, Array]]:
    """Yield (number of the feed, tensor, values) from one session, a bearable lot at a time."""
    session = open_session(with_outputs(prepared.model, tensors), provider, share=False)
    sizes: dict[str, int] = {}
    for index, feed in enumerate(feeds):
        progress("calibrating", index, len(feeds))
        for part in _parts(tensors, sizes):
            found = _fetch(session, feed, part)
            sizes.update({name: values.nbytes for name, values in found.items()})
            yield from ((index, name, values) for name, values in found.items())
    progress("calibrating", len(feeds), len(feeds))


def _parts(tensors: Sequence[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """Yield `tensors` in runs of what may be fetched at once."""
    part: list[str] = []
    held = 0
    for name in list(tensors):
        size = sizes.get(name, _AT_ONCE // _FIRST)
        if part and held + size > _AT_ONCE:
            yield part
            part, held = [], 0
        part.append(name)
        held += size
    if part:
        yield part


def _fetch(session: Session, feed: Feed, tensors: Sequence[str]) -> dict[str, Array]:
    inner = [name for name in tensors if name not in feed]
    return {name: feed[name] for name in tensors if name in feed} | session.run(feed, inner)


def _is_finite(values: Array) -> bool:
    return not is_float(values.dtype) or bool(np.isfinite(values).all())


def _fault(
    prepared: PreparedModel, feed: Feed, tensor: str, memory: Memory, provider: Provider
) -> InputError:
    """Return the error that names where NaN or infinity in `tensor` comes from."""
    index = GraphIndex(prepared.model)
    makers = index.producer
    inner = (name for node in index.ancestors([tensor]) for name in node.output if name)
    above = list(dict.fromkeys([tensor, *inner]))
    (values,) = Runner(prepared.model, memory, provider, allow_cpu_nodes=True).run([feed], above)
    bad = {name for name, found in values.items() if not _is_finite(found)}
    first = tensor
    while first in makers and (worse := [name for name in reads(makers[first]) if name in bad]):
        if np.isnan(values[first]).any() and all(_is_mask(values[name]) for name in worse):
            break
        first = max(worse, key=lambda name: bool(np.isnan(values[name]).any()))
    hint = "This is the first tensor it shows in; check the data and the model in fp32."
    if first in makers:
        node = makers[first]
        what = f"NaN or infinity arises in the node {node.name!r} ({node.op_type})"
        if node.op_type == "Softmax" and np.isnan(values[first]).any():
            hint = "Is every position of a sample masked, as one that is all padding? Leave it out."
    else:
        what = f"the input {first!r} holds NaN or infinity"
    return InputError(f"{what} while calibrating", where=f"tensor {first!r}", hint=hint)


def _is_mask(values: Array) -> bool:
    """Return whether all that is not finite is −∞, which attention masks hold on purpose."""
    return bool((np.isfinite(values) | np.isneginf(values)).all())


def observe_shapes(
    prepared: PreparedModel,
    tensors: Iterable[str],
    feed: Feed,
    provider: Provider,
    memory: Memory | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the shape each tensor has when `feed` is run. It is run if not all can be told before;
    of a model larger than `memory`, without reading its weights where that gives the same.
    """
    wanted = set(tensors)
    known = shapes_on(prepared.model, feed)
    if wanted <= known.keys():
        return {name: known[name] for name in wanted}
    model, names = with_shapes(prepared.model, wanted)
    (seen,) = look(model, [feed], list(names.values()), memory or Memory.of(None), provider)
    return {name: tuple(map(int, seen[shape])) for name, shape in names.items()}


def with_shapes(
    model: onnx.ModelProto, tensors: Iterable[str]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy of `model` that also makes the shape of each of `tensors`, right behind it, and
    tensor → what its shape is called.
    """
    shown = copied(model)
    names = {name: f"{name}/qgraph.shape" for name in sorted(set(tensors))}
    weave_in(shown.graph, [helper.make_node("Shape", [a], [b], b) for a, b in names.items()])
    return shown, names


def look(
    model: onnx.ModelProto,
    feeds: Sequence[Feed],
    tensors: Sequence[str],
    memory: Memory,
    provider: Provider,
    **options: Any,
) -> list[dict[str, Array]]:
    """Return tensors of which only shapes and types count, for each feed: the weights of a model
    larger than `memory` are not read, where that changes neither.
    """
    runner = Runner(model, memory, provider, tuned=False, **options)
    zeros = zeros_for(model) if runner.in_parts else None
    if zeros is not None:
        runner = Runner(model, memory, provider, weights=zeros, tuned=False, **options)
    return runner.run(feeds, tensors, title="looking")


def _in_graph_order(model: onnx.ModelProto, tensors: Sequence[str]) -> list[str]:
    """Return `tensors` sorted by where they arise, so that the first fault named is the first."""
    order = {item.name: 0 for item in model.graph.input}
    for position, node in enumerate(model.graph.node, start=1):
        order.update(dict.fromkeys(node.output, position))
    return sorted(dict.fromkeys(tensors), key=lambda name: (order.get(name, 0), name))


def with_outputs(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of `model` that also hands out `tensors`; onnxruntime infers their types."""
    model = copied(model)
    there = {value.name for value in (*model.graph.input, *model.graph.output)}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in there
    )
    return model


_SHAPED_BY_VALUES = {
    "ArgMax", "ArgMin", "CastLike", "Compress", "NonMaxSuppression", "NonZero", "QLinearMatMul",
    "QuantizeLinear", "DynamicQuantizeLinear", "TopK", "Unique",
}  # fmt: skip
"""What makes integers, or shapes, of values."""
_FLOATS = {*LAZY, TensorProto.BOOL}


def zeros_for(model: onnx.ModelProto) -> Mapping[str, Array] | None:
    """Return zeros in place of the weights on the disk: the system hands out one page of zeros over
    and over, and nothing is read. None where shapes may depend on what weights make: where integers
    are made of it, or a body or an operator of another domain may do so.
    """
    weights = {item.name: item for item in model.graph.initializer if is_on_disk(item)}
    if any(item.data_type not in LAZY for item in weights.values()):
        return None
    behind = set(weights)
    for node in model.graph.node:
        if node.op_type in SHAPE_OPS or behind.isdisjoint(reads(node)):
            continue
        if node.domain not in ("", "ai.onnx") or any(bodies_of(node)) or _makes_integers(node):
            return None
        behind |= set(node.output)
    return OnDemand(
        {
            name: partial(
                np.zeros, tuple(item.dims), helper.tensor_dtype_to_np_dtype(item.data_type)
            )
            for name, item in weights.items()
        }
    )


def _makes_integers(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return helper.get_node_attr_value(node, "to") not in _FLOATS
    return node.op_type in _SHAPED_BY_VALUES

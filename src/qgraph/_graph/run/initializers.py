"""Handing weights to onnxruntime beside the graph: no copy through protobuf, no limit of 2 GB."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from qgraph._graph.bodies import copied, with_graph
from qgraph._graph.index import reads
from qgraph._graph.io.models import to_bytes
from qgraph._graph.io.weights import BITS, array_of, is_on_disk, load, size_of, stub
from qgraph._graph.run.cores import cores
from qgraph._graph.tensors import Array

_INLINE_AT_MOST = 1 << 30
"""Bytes of weights in a message; protobuf stops at twice that."""
_WORTH_FEEDING = 1 << 20
"""Bytes of a weight that is fed on every run: many inputs make opening a session slow."""
_MANY = 16 << 20
"""Bytes of weights from which on making them in threads gains more than it takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A model serialized without its large weights; those that a session takes as initializers, and
    those that it is fed with on every run.
    """

    message: bytes
    held: Mapping[str, ort.OrtValue]
    fed: Mapping[str, Array]


def split(model: onnx.ModelProto, arrays: Mapping[str, Array], *, feed: bool = False) -> Split:
    """Return `model` without its large weights. `arrays`: values of initializers made by `stub`.

    `feed`: whether what only products of matrices read becomes an input. onnxruntime copies large
    initializers as a session opens, and reads inputs where they lie.
    """
    model = _unpacked(_without_unread(model))
    # the largest first, so that threads end together, and what comes along with a large one is made
    ordered = sorted(model.graph.initializer, key=size_of, reverse=True)
    outside = {item.name: item for item in ordered if is_on_disk(item)}
    inside = [item for item in model.graph.initializer if not is_on_disk(item)]
    makers = {
        name: partial(arrays.__getitem__, name) if name in arrays else partial(array_of, t)
        for name, t in outside.items()
    }
    values = _made(makers, at_once=sum(map(size_of, outside.values())) >= _MANY)
    if sum(map(size_of, inside)) >= _INLINE_AT_MOST:
        values |= {item.name: array_of(item) for item in inside if size_of(item) >= 1 << 20}
        stubs = {
            n: stub(n, item.data_type, item.dims) for item in inside if (n := item.name) in values
        }
        model = _holding(model, [stubs.get(item.name, item) for item in model.graph.initializer])
    types = {item.name: int(item.data_type) for item in model.graph.initializer}
    fed = {name: values.pop(name) for name in _multiplied(model) & outside.keys()} if feed else {}
    return Split(
        to_bytes(_declaring(model, fed) if fed else model, weights=False),
        {name: _value(a, types[name]) for name, a in values.items()},
        fed,
    )


def _multiplied(model: onnx.ModelProto) -> set[str]:
    """Return the large float weights that are read as the second factor of products alone."""
    found = {
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and size_of(item) >= _WORTH_FEEDING
    }
    found -= {value.name for value in (*model.graph.output, *model.graph.input)}
    for node in model.graph.node:
        second = node.op_type in ("MatMul", "Gemm")
        found -= {*node.input[:1], *node.input[2:]} if second else set(reads(node))
    return found


def _declaring(model: onnx.ModelProto, fed: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a copy of `model` with these initializers as inputs."""
    graph = copied(model.graph)
    kept = [item for item in graph.initializer if item.name not in fed]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in fed.items()
    )
    return with_graph(model, graph)


def _made(makers: Mapping[str, Callable[[], Array]], *, at_once: bool) -> dict[str, Array]:
    """Return the values, `at_once` made by as many threads as there are cores: numpy converts and
    rounds outside Python's lock.
    """
    if not at_once or len(makers) < 2:
        return {name: make() for name, make in makers.items()}
    with ThreadPoolExecutor(min(cores(), len(makers))) as pool:
        return dict(zip(makers, pool.map(lambda make: make(), makers.values()), strict=True))


def _unpacked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with values of which a byte holds several in the message: they cannot be
    handed over otherwise.
    """
    if not any(item.data_type in BITS and is_on_disk(item) for item in model.graph.initializer):
        return model
    held = copied(model)
    for item in held.graph.initializer:
        if item.data_type in BITS:
            load(item)
    return held


def _without_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` without what nobody reads, of which onnxruntime takes no values."""
    known = (*model.graph.output, *model.graph.input)
    read = {value.name for value in known} | {n for node in model.graph.node for n in reads(node)}
    kept = [item for item in model.graph.initializer if item.name in read]
    return model if len(kept) == len(model.graph.initializer) else _holding(model, kept)


def _holding(model: onnx.ModelProto, held: Sequence[TensorProto]) -> onnx.ModelProto:
    graph = onnx.GraphProto()
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            graph.initializer.extend(held)
        elif hasattr(value, "extend"):
            getattr(graph, field.name).extend(value)
        else:
            setattr(graph, field.name, value)
    return with_graph(model, graph)


def _value(array: Array, data_type: int) -> ort.OrtValue:
    whole = np.require(array, requirements=["C", "ALIGNED"])
    # types that are not numpy's own go as bits
    if data_type == TensorProto.BFLOAT16 or whole.dtype.isbuiltin != 1:
        bits = whole.view(f"u{whole.dtype.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, data_type)
    return ort.OrtValue.ortvalue_from_numpy(whole)

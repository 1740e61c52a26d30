"""Handing weights to onnxruntime beside the graph: no copy through protobuf, no limit of 2 GB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from qgraph._graph.io.models import to_bytes
from qgraph._graph.io.weights import BITS, array_of, is_on_disk, load, size_of, stub
from qgraph._graph.run.cores import cores
from qgraph._graph.tensors import Array

_INLINE_AT_MOST = 1 << 30
"""Bytes of weights in a message; protobuf stops at twice that."""
_MANY = 16 << 20
"""Bytes of weights from which on making them in threads gains more than it takes."""


def split(
    model: onnx.ModelProto, arrays: Mapping[str, Array]
) -> tuple[bytes, dict[str, ort.OrtValue]]:
    """Return `model` serialized without its large weights, and those by name.

    `arrays`: values of initializers made by `stub`.
    """
    model = _unpacked(model)
    outside = {item.name: item for item in model.graph.initializer if is_on_disk(item)}
    inside = [item for item in model.graph.initializer if not is_on_disk(item)]
    makers = {name: partial(_value_of, name, t, arrays) for name, t in outside.items()}
    values = _made(makers, at_once=sum(map(size_of, outside.values())) >= _MANY)
    if sum(map(size_of, inside)) >= _INLINE_AT_MOST:
        values |= {item.name: array_of(item) for item in inside if size_of(item) >= 1 << 20}
        model = _without(model, values)
    types = {item.name: int(item.data_type) for item in model.graph.initializer}
    return to_bytes(model, weights=False), {
        name: _value(a, types[name]) for name, a in values.items()
    }


def _value_of(name: str, tensor: onnx.TensorProto, arrays: Mapping[str, Array]) -> Array:
    return arrays[name] if name in arrays else array_of(tensor)


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
    held = onnx.ModelProto()
    held.CopyFrom(model)
    for item in held.graph.initializer:
        if item.data_type in BITS:
            load(item)
    return held


def _without(model: onnx.ModelProto, moved: Mapping[str, Array]) -> onnx.ModelProto:
    graph = onnx.GraphProto()
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            graph.initializer.extend(
                stub(item.name, item.data_type, item.dims) if item.name in moved else item
                for item in value
            )
        elif hasattr(value, "extend"):
            getattr(graph, field.name).extend(value)
        else:
            setattr(graph, field.name, value)
    slim = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    slim.opset_import.extend(model.opset_import)
    slim.functions.extend(model.functions)
    return slim


def _value(array: Array, data_type: int) -> ort.OrtValue:
    whole = np.require(array, requirements=["C", "ALIGNED"])
    # types that are not numpy's own go as bits
    if data_type == TensorProto.BFLOAT16 or whole.dtype.isbuiltin != 1:
        bits = whole.view(f"u{whole.dtype.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, data_type)
    return ort.OrtValue.ortvalue_from_numpy(whole)

"""What crosses the cuts between segments: types, shapes, and where the batch lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from graph.errors import InputError
from graph.runtime.forward import stack
from graph.runtime.session import Provider, open_session
from graph.tensors import Array, Feed, inputs_of


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """`values`: how a segment declares each tensor. `batch_axis`: tensor → the axis along which
    samples lie, None where it has none; the whole is None where samples cannot be stacked.
    """

    values: Mapping[str, onnx.ValueInfoProto]
    batch_axis: Mapping[str, int | None] | None


def observe_crossing(
    model: onnx.ModelProto, tensors: Sequence[str], feed: Feed, provider: Provider
) -> Crossing:
    """Return what one sample, and the same sample stacked twice, shows of `tensors`."""
    inputs = inputs_of(model)
    given = {spec.name for spec in inputs}
    inner = [name for name in tensors if name not in given]
    session = open_session(_with_outputs(model, inner), provider, allow_cpu_nodes=True)
    one = feed | session.run(feed, inner)
    values = {name: _declared(model, name, one[name]) for name in tensors}
    pair = stack([feed, feed], inputs, 2)
    if pair is None:
        return Crossing(values, None)
    try:
        two = pair[0] | session.run(pair[0], inner)
    except InputError:  # what looked like a batch is none
        return Crossing(values, None)
    return Crossing(values, {name: _batch_axis(one[name], two[name]) for name in tensors})


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of `model` that has `tensors` among its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    # onnxruntime infers the type of an output that declares none
    copy.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in known
    )
    return copy


def _declared(model: onnx.ModelProto, name: str, seen: Array) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor: as a graph input has it, else of the rank it showed."""
    for value in model.graph.input:
        if value.name == name:
            found: onnx.ValueInfoProto = value
            return found
    dtype = helper.np_dtype_to_tensor_dtype(seen.dtype)
    dims = [f"{name}.{axis}" for axis in range(seen.ndim)]
    declared: onnx.ValueInfoProto = helper.make_tensor_value_info(name, dtype, dims)
    return declared


def _batch_axis(one: Array, two: Array) -> int | None:
    """Return the axis that doubled when the sample was stacked twice."""
    if one.ndim != two.ndim:
        return None
    grown = [axis for axis in range(one.ndim) if two.shape[axis] == 2 * one.shape[axis] != 0]
    grown = [axis for axis in grown if two.shape[axis] != one.shape[axis]]
    return grown[0] if len(grown) == 1 and _repeats(one, two, grown[0]) else None


def _repeats(one: Array, two: Array, axis: int) -> bool:
    """Return whether both halves of `two` are `one`, up to the rounding of another batch."""
    return all(np.allclose(half, one, rtol=1e-3, atol=1e-5) for half in np.split(two, 2, axis=axis))

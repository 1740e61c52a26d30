"""Tensors that stay where a session left them: on the device, from one run to the next.

A run over bound inputs and outputs copies nothing that lies on the device already. Cutting a
stacked tensor into its parts, and stacking parts again, are runs of one-node graphs on the same
device. The same code serves CUDA, where it has not been run yet, and the CPU, where it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from qgraph._graph.bodies import one_node
from qgraph._graph.run.session import Provider, Session, open_session
from qgraph._graph.tensors import Array

_INT64 = onnx.TensorProto.INT64


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """A tensor of `shape` on the device of `provider`: all of `value`, or of its rows along `axis`
    those from `start` on.

    numpy takes it for an array where it needs one; that copies it to the host.
    """

    value: ort.OrtValue
    provider: Provider
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axis: int = 0
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Return the bytes it takes, its share where it is a part."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        return self.shape == tuple(self.value.shape())

    def part(self, axis: int, place: int, count: int) -> DeviceTensor:
        """Return one of `count` equal parts along `axis`; nothing is copied.

        Raises:
            ValueError: there are no such parts, or it is a part itself.
        """
        size, rest = divmod(self.shape[axis], count)
        if rest or not self.is_whole:
            raise ValueError(f"axis {axis} of {self.shape} does not hold {count} parts")
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        return replace(self, shape=shape, axis=axis, start=place * size)

    def alone(self) -> ort.OrtValue:
        """Return it as a value of its own on the device."""
        if self.is_whole:
            return self.value
        end = self.start + self.shape[self.axis]
        places = {"start": np.array([self.start]), "end": np.array([end])}
        cutter = _cutter(self.provider, self.dtype.name, len(self.shape), self.axis)
        return cutter.run_bound({"x": self.value, **places})["y"]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - as numpy calls it
        return np.array(self.alone().numpy(), dtype=dtype or self.dtype)


Value = Array | DeviceTensor
"""A tensor on the host or on the device."""


def run_on_device(session: Session, feed: Mapping[str, Value]) -> dict[str, Value]:
    """Return all outputs of a run, left on the device.

    Raises:
        InputError: the runtime refuses the feed or fails on the model.
    """
    made = session.run_bound({name: _alone(value) for name, value in feed.items()})
    return {name: _seen(value, session.provider) for name, value in made.items()}


def join_on_device(values: Sequence[Value], axis: int, provider: Provider) -> DeviceTensor:
    """Return values stacked along `axis`; what lies stacked already is not copied."""
    whole = _whole(values, axis)
    if whole is not None:
        return whole
    joiner = _joiner(provider, values[0].dtype.name, len(values[0].shape), axis, len(values))
    made = joiner.run_bound({f"x{i}": _alone(value) for i, value in enumerate(values)})
    return _seen(made["y"], provider)


def _alone(value: Value) -> Array | ort.OrtValue:
    return value.alone() if isinstance(value, DeviceTensor) else value


def _seen(value: ort.OrtValue, provider: Provider) -> DeviceTensor:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.element_type()))
    return DeviceTensor(value, provider, dtype, tuple(value.shape()))


def _whole(values: Sequence[Value], axis: int) -> DeviceTensor | None:
    """Return the tensor that `values` are all the parts of, in order along `axis`, if any."""
    first, start = values[0], 0
    if not isinstance(first, DeviceTensor):
        return None
    for value in values:
        same = isinstance(value, DeviceTensor) and value.value is first.value
        if not same or value.axis != axis or value.start != start:  # type: ignore[union-attr]
            return None
        start += value.shape[axis]
    shape = tuple(first.value.shape())
    return replace(first, shape=shape, axis=0, start=0) if start == shape[axis] else None


@lru_cache(maxsize=256)
def _cutter(provider: Provider, dtype: str, rank: int, axis: int) -> Session:
    """Return a session that takes rows `start` to `end` of `x` along `axis`."""
    at = helper.make_tensor("axes", _INT64, [1], [axis])
    places = [helper.make_tensor_value_info(name, _INT64, [1]) for name in ("start", "end")]
    node = helper.make_node("Slice", ["x", "start", "end", "axes"], ["y"])
    inputs, outputs = [_declared("x", dtype, rank), *places], [_declared("y", dtype, rank)]
    return open_session(one_node(node, inputs, outputs, [at]), provider, threads=1)


@lru_cache(maxsize=256)
def _joiner(provider: Provider, dtype: str, rank: int, axis: int, count: int) -> Session:
    """Return a session that stacks `x0`, `x1` … along `axis`."""
    names = [f"x{index}" for index in range(count)]
    node = helper.make_node("Concat", names, ["y"], axis=axis)
    inputs = [_declared(name, dtype, rank) for name in names]
    model = one_node(node, inputs, [_declared("y", dtype, rank)])
    return open_session(model, provider, threads=1)


def _declared(name: str, dtype: str, rank: int) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    dims = [f"{name}.{axis}" for axis in range(rank)]
    made: onnx.ValueInfoProto = helper.make_tensor_value_info(name, kind, dims)
    return made
